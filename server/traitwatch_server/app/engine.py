"""Wraps the engine client between vLLM's endpoints and its engine: marks each call, and reads what it generates.

`EngineClient.generate` is the one public method through which every endpoint of vLLM generates. `watch` wraps this
method on the one engine client of the server. Each call gets a key in its sampling parameters, which vLLM carries to
the worker. The wrapper reads the outputs of the call on their way back. The ledger keeps a call of a scored HTTP
request for the response; the recorder records every call.
"""

import asyncio
import copy
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

from vllm import SamplingParams
from vllm.engine.protocol import EngineClient
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind

from traitwatch.vllm_private.api_process import RefusedError, prompt_length
from traitwatch_server.app.draining import ENGINE_TIMEOUT, Draining
from traitwatch_server.app.handover import Launch
from traitwatch_server.ledger.call import Call
from traitwatch_server.monitor import Monitor
from traitwatch_server.responses.scored_request import SCORED_REQUEST, Unscorable
from traitwatch_server.wire import PROMPT_KEY, REQUEST_KEY

logger = logging.getLogger(__name__)


def watch(engine: EngineClient, monitor: Monitor, draining: Draining) -> None:
    """Wrap the `generate` of an engine client: score and record each call, and have the server's end wait for it."""
    plain: Callable[..., AsyncGenerator[RequestOutput, None]] = engine.generate

    def generate(
        prompt: Any, sampling_params: Any, request_id: str, *args: Any, **kwargs: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        def start(params: Any) -> AsyncGenerator[RequestOutput, None]:
            return plain(prompt, params, request_id, *args, **kwargs)

        scored = SCORED_REQUEST.get()
        if not isinstance(sampling_params, SamplingParams):
            return start(sampling_params)
        if isinstance(prompt, AsyncGenerator) and not isinstance(scored, Unscorable):
            # As in a realtime session, the prompt grows while its answer is generated. It has no length from which the
            # places of the rows could be counted.
            monitor.recorder.not_attached("not_scorable")
            scored = Unscorable.UNSCORABLE
        if isinstance(scored, Unscorable):
            return _counted(start(sampling_params), sampling_params, request_id, monitor, draining)
        if scored is not None and scored.selection.prompt:
            _refuse_long_prompt(prompt, monitor.max_prompt)
        # A response knows its calls by their order, so each call is opened before its first output is asked for.
        call = None if scored is None else scored.open_call(request_id, sampling_params.n)
        return _followed(start, sampling_params, request_id, call, kwargs.get("lora_request"), monitor, draining)

    engine.generate = generate


def _refuse_long_prompt(prompt: Any, most: int | None) -> None:
    """Refuse to score the tokens of a prompt that has more than `most`; the endpoint answers with status 400."""
    length = prompt_length(prompt)
    if most is not None and length > most:
        raise RefusedError(
            f"traits.prompt: the prompt has {length} tokens, and this server gives the projections of prompts of at "
            f"most {most} (--traits-max-prompt); leave prompt out, or send a shorter prompt.",
            parameter="traits",
        )


def watch_end(
    engine: EngineClient, launch: Launch, drain: Callable[[], Coroutine[Any, Any, None]], at_end: Callable[[], None]
) -> None:
    """Wrap the `shutdown` of an engine client.

    When the server ends, call `drain`, unless the engine has died, and then `at_end`. Note in `launch` whether the
    engine has died: vLLM itself ends with exit status 0 then, as after SIGTERM. vLLM calls `shutdown` in both cases,
    the first time before or after it has noticed that the engine is dead.
    """
    plain: Callable[..., None] = engine.shutdown
    loop = asyncio.get_running_loop()
    ended = False

    def shutdown(timeout: float | None = None) -> None:
        nonlocal ended
        if not ended:
            launch.engine_died = engine.errored
            ended = True
            try:
                # vLLM calls this from another thread where requests may be running. It calls this in the main thread,
                # which runs the event loop, where the server has had no requests.
                if not engine.errored and threading.current_thread() is not threading.main_thread():
                    timeout = ENGINE_TIMEOUT
                    asyncio.run_coroutine_threadsafe(drain(), loop).result()
                at_end()
            except Exception:
                # The server must end, whatever fails here.
                logger.exception("The server could not end in order.")
        plain(timeout=timeout)

    engine.shutdown = shutdown


def marked_params(params: SamplingParams, call: Call) -> SamplingParams:
    """Return a copy of sampling parameters that carries the key of a call."""
    marked = copy.copy(params)
    # A client may put anything into extra_args (`vllm_xargs`), our own names too.
    own = {name: value for name, value in (params.extra_args or {}).items() if name not in (REQUEST_KEY, PROMPT_KEY)}
    marked.extra_args = {**own, REQUEST_KEY: call.key}
    if call.with_prompt:
        marked.extra_args[PROMPT_KEY] = True
        # vLLM does not compute again what the prefix cache holds, so those tokens would have no rows.
        marked.skip_reading_prefix_cache = True
    return marked


def note_output(output: RequestOutput, call: Call, *, deltas: bool) -> None:
    """Add the tokens of an output to its call: those of the prompt, and the generated ones (all, or the new ones)."""
    for part in output.outputs:
        rows = call.choice(part.index)
        if output.prompt_token_ids is not None and not rows.prompt:
            rows.prompt = output.prompt_token_ids
        # Each output has all tokens, or the new ones. Tokens are only ever appended.
        rows.tokens.extend(part.token_ids if deltas else part.token_ids[len(rows.tokens) :])


async def _followed(
    start: Callable[[SamplingParams], AsyncGenerator[RequestOutput, None]],
    params: SamplingParams,
    request_id: str,
    call: Call | None,
    adapter: LoRARequest | None,
    monitor: Monitor,
    draining: Draining,
) -> AsyncGenerator[RequestOutput, None]:
    """Generate, and add each output to the call.

    Args:
        start: starts the engine's own generator.
        params: the caller's sampling parameters.
        request_id: the engine's id of the request.
        call: the call that its response has opened; None where no response carries its scores.
        adapter: the LoRA adapter of the request.
        monitor: records the call when it has ended.
        draining: the server's end waits for the call.
    """
    if call is None:
        call = monitor.ledger.open(monitor.traits, params.n, request_id=request_id)
    call.started = True
    call.adapter = None if adapter is None else adapter.lora_name
    reader = _Reader(call, deltas=params.output_kind == RequestOutputKind.DELTA)
    outputs = start(marked_params(params, call) if call.accepted else params)
    with draining.generation(request_id):
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    reader.read(output)
                    yield output
        finally:
            monitor.recorder.ended(call, finished=reader.finished)


class _Reader:
    """Reads the outputs of a call. Where reading fails, the generation goes on, and its response is incomplete.

    Attributes:
        finished: whether the engine has finished the call.
    """

    def __init__(self, call: Call, *, deltas: bool):
        self.finished = False
        self._call = call
        self._deltas = deltas
        self._failed = False

    def read(self, output: RequestOutput) -> None:
        try:
            self.finished = output.finished
            note_output(output, self._call, deltas=self._deltas)
        except Exception:
            if not self._failed:
                logger.exception("The tokens of a response could not be read; the response is incomplete.")
            self._failed = True


async def _counted(
    outputs: AsyncGenerator[RequestOutput, None],
    params: SamplingParams,
    request_id: str,
    monitor: Monitor,
    draining: Draining,
) -> AsyncGenerator[RequestOutput, None]:
    """Count tokens that cannot be scored."""
    deltas = params.output_kind == RequestOutputKind.DELTA
    count = 0
    with draining.generation(request_id):
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    tokens = sum(len(part.token_ids) for part in output.outputs)
                    count = count + tokens if deltas else max(count, tokens)
                    yield output
        finally:
            monitor.recorder.not_scorable(count)
