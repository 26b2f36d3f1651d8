"""Between vLLM's endpoints and its engine: marks the calls that are to be scored, and sees what they generate.

`EngineClient.generate` is the one public method through which every endpoint of vLLM generates. It is wrapped on the
one instance that the server has: a call that belongs to a scored HTTP request gets a key in its sampling parameters,
which vLLM carries to the worker, and its outputs are read on their way back. Any other call goes through as it came.
"""

import copy
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

from vllm import SamplingParams
from vllm.engine.protocol import EngineClient
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind

from server.launch import Launch
from server.ledger import Call
from server.scored import SCORED_REQUEST
from server.transport import PROMPT_KEY, REQUEST_KEY

logger = logging.getLogger(__name__)


def watch(engine: EngineClient) -> None:
    """Wrap the `generate` of an engine client."""
    plain: Callable[..., AsyncGenerator[RequestOutput, None]] = engine.generate

    def generate(prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[RequestOutput, None]:
        call = _open_call(sampling_params)
        if call is None:
            return plain(prompt, sampling_params, *args, **kwargs)
        marked = marked_params(sampling_params, call)
        outputs = plain(prompt, marked, *args, **kwargs)
        return _followed(outputs, call, deltas=marked.output_kind == RequestOutputKind.DELTA)

    engine.generate = generate


def watch_end(engine: EngineClient, launch: Launch) -> None:
    """Note in `launch` whether the engine died; vLLM itself ends with exit status 0 then, as if it had been told to.

    vLLM shuts the client down in both cases, the first time before or after it has noticed that the engine is dead.
    """
    plain: Callable[..., None] = engine.shutdown
    ended = False

    def shutdown(*args: Any, **kwargs: Any) -> None:
        nonlocal ended
        if not ended:
            launch.engine_died = engine.errored
        ended = True
        plain(*args, **kwargs)

    engine.shutdown = shutdown


def marked_params(params: SamplingParams, call: Call) -> SamplingParams:
    """Return a copy of sampling parameters that carries the key of a call."""
    marked = copy.copy(params)
    marked.extra_args = {**(params.extra_args or {}), REQUEST_KEY: call.key}
    if call.with_prompt:
        marked.extra_args[PROMPT_KEY] = True
        # What the prefix cache holds is not computed again, and would have no rows.
        marked.skip_reading_prefix_cache = True
    return marked


def take(output: RequestOutput, call: Call, *, deltas: bool) -> None:
    """Note what an output says: the prompt's tokens, and those that were generated (so far, or since the last)."""
    for part in output.outputs:
        rows = call.choice(part.index)
        if output.prompt_token_ids is not None and not rows.prompt:
            rows.prompt = output.prompt_token_ids
        if deltas:
            rows.tokens.extend(part.token_ids)
        else:
            rows.tokens = list(part.token_ids)


def _open_call(sampling_params: Any) -> Call | None:
    scored = SCORED_REQUEST.get()
    if scored is None or not isinstance(sampling_params, SamplingParams):
        return None
    return scored.open_call(sampling_params.n)


async def _followed(
    outputs: AsyncGenerator[RequestOutput, None], call: Call, *, deltas: bool
) -> AsyncGenerator[RequestOutput, None]:
    failed = False
    try:
        async for output in outputs:
            try:
                take(output, call, deltas=deltas)
            except Exception:
                # A monitoring failure must not fail a generation; its rows will not match, and the response says so.
                if not failed:
                    logger.exception("The tokens of a response could not be read; it is incomplete.")
                failed = True
            yield output
    finally:
        await outputs.aclose()
