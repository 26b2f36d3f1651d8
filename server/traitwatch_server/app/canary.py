"""The start-up check: runs known prompts through every engine, and checks the projections that come back.

The prompts go the whole way of a request (engine, tap, transport, ledger). So the check finds a tap that torch.compile
has optimised away, a stale compiled graph without a tap, rows credited to no request, and a transport that does not
connect. One prompt goes alone. Then many go at once: they run in graphs of other sizes, and their rows are neighbours.
"""

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
from vllm import SamplingParams
from vllm.engine.protocol import EngineClient

from traitwatch.vectors import Float32Array
from traitwatch.vllm_private.api_process import engine_indexes
from traitwatch_server.app.engine import marked_params, note_output
from traitwatch_server.errors import CanaryError
from traitwatch_server.ledger.call import Call
from traitwatch_server.monitor import Monitor
from traitwatch_server.traits import ServedTrait

_FIRST_TOKEN = 10
_PROMPT_TOKENS = 8
_NEW_TOKENS = 4
# Prompts that run at once, and by how many tokens the longest of them is longer than the shortest.
_BATCH = 40
_SPREAD = 5
_ROWS_TIMEOUT = 30.0


async def run_canary(engine: EngineClient, monitor: Monitor) -> None:
    """Score short generations on each data-parallel engine.

    Raises:
        CanaryError: rows are missing, of other tokens, not finite, or all the same; the server must not serve.
    """
    engines = len(engine_indexes(engine.vllm_config.parallel_config))
    traits = list(monitor.traits.traits.values())
    for rank in range(engines) if engines > 1 else [None]:
        # Where no row comes, the first prompt says so: the others would all wait for theirs.
        for count in (1, _BATCH):
            scored = await asyncio.gather(*(_score(engine, monitor, rank, number) for number in range(count)))
            for states, complete in scored:
                check(states, traits, monitor, complete=complete)


async def _score(engine: EngineClient, monitor: Monitor, rank: int | None, number: int) -> tuple[Float32Array, bool]:
    """Generate after prompt `number`; return what came of its projections, as for `check`, and whether all came."""
    call = monitor.ledger.open(monitor.traits)
    try:
        await _generate(engine, call, rank, number)
        complete = await call.wait_complete(0, _ROWS_TIMEOUT)
        rows = call.choice(0)
        return np.concatenate([rows.prompt_last()[None], rows.states(0, _NEW_TOKENS - 1)]), complete
    finally:
        monitor.ledger.close(call)


def check(states: Float32Array, traits: Sequence[ServedTrait], monitor: Monitor, *, complete: bool) -> None:
    """Refuse projections that are missing, not finite, or all the same.

    Args:
        states: `[num_states, columns]`, float32; the first is the prompt-last state.
        traits: the served traits.
        monitor: has the columns of the rows.
        complete: whether every row came and belongs to the tokens that were generated.
    """
    if not traits:
        return
    names = [f"{trait.name} (layer {trait.layer})" for trait in traits]
    columns = monitor.traits.columns
    values = states[:, [columns.place(trait.layer, trait.column) for trait in traits]]
    if np.isnan(values).all():
        raise CanaryError(
            "the start-up check ran a prompt, but no projection of it came from the worker; the tap is not in the "
            "model that runs, or its rows do not reach this process. The server will not serve unscored."
        )
    broken = [name for name, column in zip(names, values.T, strict=True) if not np.isfinite(column).all()]
    if broken or not complete:
        raise CanaryError(
            "the start-up check ran a prompt, and projections are missing, of other tokens than those that were "
            f"generated, or not finite for {', '.join(broken or names)}; check the model's weights and dtype. The "
            "server will not serve wrong scores."
        )
    # A buffer that only the prompt's pass has written would give the same value for every generated token.
    dead = [name for name, column in zip(names, values[1:].T, strict=True) if np.ptp(column) == 0.0]
    if dead:
        raise CanaryError(
            f"the start-up check ran a prompt, and the projections of {', '.join(dead)} do not move from token to "
            "token; the tap is not in the graph that runs (a stale compile cache? try VLLM_DISABLE_COMPILE_CACHE=1)."
        )


async def _generate(engine: EngineClient, call: Call, rank: int | None, number: int) -> None:
    params = SamplingParams(max_tokens=_NEW_TOKENS, min_tokens=_NEW_TOKENS, ignore_eos=True, temperature=0.0)
    # Each prompt begins with another token, so that no prompt finds its beginning in the prefix cache.
    first = _FIRST_TOKEN + number
    prompt: Any = {"prompt_token_ids": list(range(first, first + _PROMPT_TOKENS + number % _SPREAD))}
    request_id = f"traitwatch-canary-{uuid.uuid4().hex}"
    outputs = engine.generate(prompt, marked_params(params, call), request_id, data_parallel_rank=rank)
    async for output in outputs:
        note_output(output, call, deltas=False)
