"""An application in the place of vLLM, and a client that sends requests to it through the middleware."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.types import Message, Receive, Scope, Send
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from tests.support.engine import TOKENS, Engine
from tests.support.traits import served_trait
from traitwatch_server.app.draining import Draining
from traitwatch_server.app.engine import watch
from traitwatch_server.metrics import Metrics
from traitwatch_server.monitor import Monitor
from traitwatch_server.responses.middleware import TraitsMiddleware
from traitwatch_server.settings import TraitsDefault
from traitwatch_server.traits import trait_set

CHAT, BATCH = "/v1/chat/completions", "/v1/chat/completions/batch"
COMPLETIONS, RESPONSES, MESSAGES = "/v1/completions", "/v1/responses", "/v1/messages"
EVENTS = "text/event-stream; charset=utf-8"
# A request without a `traits` field.
ASKED = b'{"messages": [] }'
# The projections of choice 0 (`tests.support.engine.TOKENS`).
FIRST_CHOICE = [3.5, 4.0, None]


def monitor_of(registry: CollectorRegistry, default: TraitsDefault) -> Monitor:
    """Return a monitor of one trait. z is equal to the projection."""
    return Monitor(trait_set([served_trait(mean=0.0, std=1.0)]), default, "api", Metrics(registry))


async def settled(monitor: Monitor) -> None:
    """Wait until every response is recorded and no call is open. Then flush the metrics."""
    async with asyncio.timeout(20):
        while len(monitor.ledger):
            await asyncio.sleep(0.001)
    monitor.recorder.tally.flush()


def choices(*indices: int) -> bytes:
    """Return the body of an answer with choices."""
    return json.dumps({"id": "x", "choices": [{"index": i, "text": "é"} for i in indices]}).encode()


def chunk(number: int) -> bytes:
    """Return an event of a chat's stream. The last event has the number -1."""
    choice = {"index": 0, "delta": {"content": "é"}, "finish_reason": "stop" if number == -1 else None}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


class App:
    """Stands in the place of vLLM. It generates, then answers with a body or with an event for each token."""

    def __init__(
        self,
        monitor: Monitor,
        answer: bytes | Callable[[int], bytes],
        media_type: str = "application/json",
        *,
        status: int = 200,
        n: int = 1,
        calls: int = 1,
        cut: int = 10**6,
    ) -> None:
        """Make an application that has not received a request.

        Args:
            monitor: the server's monitor.
            answer: the body of the answer. For a stream: makes an event from the number of a token (-1 for the last).
            media_type: the media type of the answer.
            status: the HTTP status of the answer. The application generates only with status 200.
            n: the choices of each call of the engine.
            calls: the number of calls of the engine, one after the other.
            cut: the largest number of bytes in a message of the answer.
        """
        self.engine = Engine(monitor.ledger)
        watch(self.engine, monitor, Draining(0))  # type: ignore[arg-type]
        self.answer = answer
        self.media_type = media_type
        self.status = status
        self.n = n
        self.calls = calls
        self.cut = cut
        self.body = b""
        self.prompt: dict[str, Any] = {}
        self.error: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            self.body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        assert dict(scope["headers"])[b"content-length"] == str(len(self.body)).encode()
        if self.error is not None:
            raise self.error
        pieces = [self.answer] if isinstance(self.answer, bytes) else []
        headers = [(b"content-type", self.media_type.encode()), (b"x-test", b"1")]
        if self.media_type == "application/json":
            headers.append((b"content-length", str(sum(map(len, pieces))).encode()))
        kind = RequestOutputKind.FINAL_ONLY if pieces else RequestOutputKind.DELTA
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        # vLLM calls `generate` in its handler, and reads the outputs of a stream in another task.
        streams = [
            self.engine.generate(self.prompt, SamplingParams(n=self.n, output_kind=kind), f"cmpl-1-{i}")
            for i in range(self.calls if self.status == 200 else 0)
        ]
        for stream in streams:
            await asyncio.create_task(self._generate(stream, send))
        whole = b"".join(pieces) if pieces else b"data: [DONE]\n\n"
        for start in range(0, len(whole), self.cut):
            await send({"type": "http.response.body", "body": whole[start : start + self.cut], "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _generate(self, stream: Any, send: Send) -> None:
        number = 0
        async for _ in stream:
            if not isinstance(self.answer, bytes):
                event = self.answer(number if number < len(TOKENS[0]) - 1 else -1)
                for start in range(0, len(event), self.cut):
                    body = event[start : start + self.cut]
                    await send({"type": "http.response.body", "body": body, "more_body": True})
            number += 1


class Reply:
    """The messages of the answer to one request."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.messages[1:])

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])

    @property
    def events(self) -> list[Any]:
        lines = [line for line in self.body.splitlines() if line.startswith(b"data: {")]
        return [json.loads(line.removeprefix(b"data: ")) for line in lines]


async def call(app: App, monitor: Monitor, body: bytes, path: str = CHAT, method: str = "POST") -> Reply:
    """Send a request through the middleware."""
    result = Reply()
    # The body comes in two messages, as from a slow client.
    waiting: list[Message] = [
        {"type": "http.request", "body": body[:7], "more_body": True},
        {"type": "http.request", "body": body[7:], "more_body": False},
    ]

    async def receive() -> Message:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        result.messages.append(message)

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": headers}
    await TraitsMiddleware(app, lambda: monitor)(scope, receive, send)
    return result
