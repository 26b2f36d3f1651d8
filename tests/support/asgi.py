"""An application where vLLM stands, and a client that asks it through the middleware."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from starlette.types import Message, Receive, Scope, Send
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from tests.support.engine import TOKENS, Engine
from traitwatch_server.app.draining import Draining
from traitwatch_server.app.engine import watch
from traitwatch_server.monitor import Monitor
from traitwatch_server.responses.middleware import TraitsMiddleware

CHAT = "/v1/chat/completions"


class App:
    """Stands where vLLM stands: generates, then answers with given pieces, or with one event a generated token.

    Args of the constructor:
        monitor: the server's.
        answer: the body; or, for a stream, makes an event out of the number of a token (-1 for the last).
        calls: how often it generates, one after the other.
    """

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
        self.engine = Engine(monitor.ledger)
        watch(self.engine, monitor, Draining(0))  # type: ignore[arg-type]
        self.answer = answer
        self.media_type = media_type
        self.status = status
        self.n = n
        self.calls = calls
        self.cut = cut
        self.body = b""
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
        # vLLM calls generate in its handler, and reads a stream's outputs in another task.
        streams = [
            self.engine.generate({}, SamplingParams(n=self.n, output_kind=kind), f"cmpl-1-{i}")
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


class Call:
    """What came back of one request."""

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


async def call(app: App, monitor: Monitor, body: bytes, path: str = CHAT, method: str = "POST") -> Call:
    result = Call()
    # The body comes in two messages, as it does from a slow client.
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
