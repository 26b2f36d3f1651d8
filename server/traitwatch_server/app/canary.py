"""The start-up check: runs a known prompt through every engine, and checks the projections that come back.

The prompt goes the whole way of a request (engine, tap, transport, ledger). So the check finds a tap that torch.compile
has optimised away, a stale compiled graph without a tap, rows credited to no request, and a transport that does not
connect.
"""

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

_PROMPT_TOKENS = 8
_NEW_TOKENS = 4
_ROWS_TIMEOUT = 30.0


async def run_canary(engine: EngineClient, monitor: Monitor) -> None:
    """Score a short generation on each data-parallel engine.

    Raises:
        CanaryError: rows are missing, not finite, or all the same; the server must not serve.
    """
    engines = len(engine_indexes(engine.vllm_config.parallel_config))
    for rank in range(engines) if engines > 1 else [None]:
        call = monitor.ledger.open(monitor.traits)
        try:
            await _generate(engine, call, rank)
            complete = await call.wait_complete(0, _ROWS_TIMEOUT)
            rows = call.choice(0)
            states = np.concatenate([rows.prompt_last()[None], rows.states(0, _NEW_TOKENS - 1)])
        finally:
            monitor.ledger.close(call)
        check(states, list(monitor.traits.traits.values()), monitor, complete=complete)


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


async def _generate(engine: EngineClient, call: Call, rank: int | None) -> None:
    params = SamplingParams(max_tokens=_NEW_TOKENS, min_tokens=_NEW_TOKENS, ignore_eos=True, temperature=0.0)
    prompt: Any = {"prompt_token_ids": list(range(10, 10 + _PROMPT_TOKENS))}
    request_id = f"traitwatch-canary-{uuid.uuid4().hex}"
    outputs = engine.generate(prompt, marked_params(params, call), request_id, data_parallel_rank=rank)
    async for output in outputs:
        note_output(output, call, deltas=False)
