"""The start-up check: a known prompt is run through the engine, and its projections must come back as they should.

It goes the whole way that a request goes (engine, tap, transport, ledger), so it finds a tap that torch.compile has
optimised away, a stale compiled graph without one, rows credited to nobody, and a transport that does not connect.
"""

import asyncio
import uuid
from typing import Any

import numpy as np
from vllm import SamplingParams
from vllm.engine.protocol import EngineClient

from server.errors import CanaryError
from server.monitor import Monitor
from server.transport import REQUEST_KEY, new_key

_PROMPT_TOKENS = 8
_NEW_TOKENS = 4
_ROWS_TIMEOUT = 30.0


async def run_canary(engine: EngineClient, monitor: Monitor) -> None:
    """Score a short generation.

    Raises:
        CanaryError: rows are missing, not finite, or all the same; the server must not serve.
    """
    request = monitor.ledger.open(new_key(monitor.api_process))
    try:
        await _generate(engine, request.key)
        num_states = _NEW_TOKENS - 1
        complete = await request.wait_complete(0, num_states, _ROWS_TIMEOUT)
        rows = request.choice(0)
        values = np.concatenate([rows.prompt_last()[None], rows.states(num_states)])
    finally:
        monitor.ledger.close(request)
    names = [f"{t.name} (layer {t.layer})" for t in sorted(monitor.traits.values(), key=lambda t: t.column)]
    if np.isnan(values).all():
        raise CanaryError(
            "the start-up check ran a prompt, but no projection of it came from the worker; the tap is not in the "
            "model that runs, or its rows do not reach this process. The server will not serve unscored."
        )
    broken = [name for name, column in zip(names, values.T, strict=True) if not np.isfinite(column).all()]
    if broken or not complete:
        raise CanaryError(
            f"the start-up check ran a prompt, and projections are missing or not finite for {', '.join(broken)}; "
            "check the model's weights and dtype. The server will not serve wrong scores."
        )
    # A buffer that only the prompt's pass has written would say the same of every generated token.
    generated = values[1:].T
    dead = [name for name, column in zip(names, generated, strict=True) if np.ptp(column) == 0.0]
    if dead:
        raise CanaryError(
            f"the start-up check ran a prompt, and the projections of {', '.join(dead)} do not move from token to "
            "token; the tap is not in the graph that runs (a stale compile cache? try VLLM_DISABLE_COMPILE_CACHE=1)."
        )


async def _generate(engine: EngineClient, key: str) -> None:
    params = SamplingParams(
        max_tokens=_NEW_TOKENS, min_tokens=_NEW_TOKENS, ignore_eos=True, temperature=0.0, extra_args={REQUEST_KEY: key}
    )
    prompt: Any = {"prompt_token_ids": list(range(10, 10 + _PROMPT_TOKENS))}
    async for _ in engine.generate(prompt, params, f"traitwatch-canary-{uuid.uuid4().hex}"):
        await asyncio.sleep(0)
