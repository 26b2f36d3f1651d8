"""What the ordinary request costs: processor time of middleware, ledger and recorder for each token, six traits."""

import json
import statistics
import sys
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry
from starlette.types import Message, Receive, Scope, Send
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from tests.benchmarks.blocked_loop.worker import LAYER, token_ids, values
from tests.support.traits import served_trait
from traitwatch_server.app.draining import Draining
from traitwatch_server.app.engine import watch
from traitwatch_server.metrics import Metrics
from traitwatch_server.monitor import Monitor
from traitwatch_server.responses.middleware import TraitsMiddleware
from traitwatch_server.traits import trait_set
from traitwatch_server.wire import REQUEST_KEY, RowFrame, RowRun

TRAITS, PROMPT, TOKENS = 6, 64, 256
_REQUESTS = 40


class _Engine:
    """Stands in for the engine: a frame a token, and the token after it."""

    def __init__(self, monitor: Monitor):
        self._monitor = monitor
        self._ids = token_ids(PROMPT + TOKENS)
        self._decoder = msgspec.msgpack.Decoder(RowFrame)
        rows = values(PROMPT - 1, TOKENS, TRAITS, spiky=False)
        self._rows = [rows[i : i + 1].tobytes() for i in range(TOKENS)]

    async def generate(self, prompt: Any, params: Any, request_id: str, **options: Any) -> AsyncIterator[Any]:
        key = params.extra_args[REQUEST_KEY]
        deltas = params.output_kind == RequestOutputKind.DELTA
        for i in range(TOKENS):
            run = RowRun(key, request_id, PROMPT, 1)
            frame = RowFrame([LAYER], [TRAITS], [run], 0, 0, time.time(), self._rows[i])
            self._monitor.ledger.deliver(self._decoder.decode(msgspec.msgpack.encode(frame)))
            if deltas or i == TOKENS - 1:
                part = SimpleNamespace(
                    index=0, token_ids=self._ids[PROMPT + (i if deltas else 0) :][: 1 if deltas else None]
                )
                yield SimpleNamespace(prompt_token_ids=self._ids[:PROMPT], outputs=[part], finished=i == TOKENS - 1)


def _endpoint(engine: _Engine, *, stream: bool) -> Any:
    params = SamplingParams(output_kind=RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY)
    media = b"text/event-stream" if stream else b"application/json"
    shared = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
    answer = json.dumps({**shared, "choices": [{"index": 0, "text": "x" * 900, "logprobs": None}]}).encode()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", media)]})
        async for output in engine.generate({}, params, "cmpl-1"):
            if stream:
                reason = "length" if output.finished else None
                choice = {"index": 0, "text": " abc", "logprobs": None, "finish_reason": reason}
                event = b"data: " + json.dumps({**shared, "choices": [choice]}).encode() + b"\n\n"
                await send({"type": "http.response.body", "body": event, "more_body": True})
        body = b"data: [DONE]\n\n" if stream else answer
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return app


async def ordinary(runs: int) -> None:
    """Measure, and write microseconds a token with the scores, and what the stand-ins alone take."""
    out = sys.stdout
    out.write(
        f"\n{TRAITS} traits, answers of {TOKENS} tokens; processor time a token, microseconds, median of {runs}\n"
    )
    for stream in (True, False):
        monitor = Monitor(
            trait_set([served_trait(f"trait-{i}", layer=LAYER, column=i) for i in range(TRAITS)]),
            "tokens",
            "api",
            Metrics(CollectorRegistry()),
        )
        engine = _Engine(monitor)
        watch(engine, monitor, Draining(0))  # type: ignore[arg-type]
        app = TraitsMiddleware(_endpoint(engine, stream=stream), lambda: monitor)  # noqa: B023
        times = [await _time(app) for _ in range(runs)]
        out.write(
            f"{'streamed' if stream else 'unstreamed':12} {statistics.median(times):8.1f} (best {min(times):.1f})\n"
        )


async def _time(app: Any) -> float:
    body = b'{"model": "m", "prompt": "' + b"x" * 300 + b'", "max_tokens": 256}'
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers}

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        return None

    started = time.thread_time()
    for _ in range(_REQUESTS):
        await app(scope, receive, send)
    return 1e6 * (time.thread_time() - started) / (_REQUESTS * TOKENS)
