"""The ASGI middleware: decides which requests are scored, and attaches the scores to their responses.

While a scored request is handled, it stands in a context variable, where the engine's `generate` finds it. A request
that says nothing of traits reaches vLLM byte for byte, and so does every response that carries no scores its client.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.attach import Attacher
from server.errors import RequestError
from server.monitor import Monitor
from server.recorder import Recorder
from server.refusals import refusal, request_path
from server.scored import SCORED_REQUEST, ScoredRequest, Unscorable
from server.selection import Selection, select
from server.shapes import shape_of
from server.sse import EventSplitter

_FIELD = "traits"
# What makes a response carry no scores, as the request's body says it.
_BEAM_SEARCH, _BACKGROUND = "use_beam_search", "background"
_WITHOUT_SCORES = {_BEAM_SEARCH: "beam search", _BACKGROUND: "a background response"}

logger = logging.getLogger(__name__)


class TraitsMiddleware:
    """Scores the answers of the paths that have a shape.

    Args of the constructor:
        app: the application.
        monitor: returns the monitor; called a request, since the engine is not there yet when the app is built.
    """

    def __init__(self, app: ASGIApp, monitor: Callable[[], Monitor]):
        self._app = app
        self._monitor = monitor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        shape = shape_of(request_path(scope)) if scope["type"] == "http" and scope["method"] == "POST" else None
        if shape is None:
            await self._app(scope, receive, send)
            return
        monitor = self._monitor()
        received = await _receive_body(receive)
        try:
            selection, scope, received = _read_request(scope, received, monitor)
        except RequestError as error:
            await refusal(400, str(error), path=request_path(scope), param=_FIELD)(scope, receive, send)
            return
        receive = _replay(received, receive)
        if not isinstance(selection, Selection):
            with _while_handled(selection):
                await self._app(scope, receive, send)
            return
        request = ScoredRequest(selection, monitor.ledger)
        rewriter = _AnswerRewriter(Attacher(request, shape), send, monitor.recorder)
        with closing(request), _while_handled(request):
            await self._app(scope, receive, rewriter)


@contextmanager
def _while_handled(request: ScoredRequest | Unscorable | None) -> Iterator[None]:
    """Let the calls of the engine that are made meanwhile find `request`."""
    token = SCORED_REQUEST.set(request)
    try:
        yield
    finally:
        SCORED_REQUEST.reset(token)


def _read_request(
    scope: Scope, received: list[Message], monitor: Monitor
) -> tuple[Selection | Unscorable | None, Scope, list[Message]]:
    """Decide what a response carries, and take our field out of the request's body.

    Returns:
        What the response carries (None: no scores), and the request as vLLM is to see it.

    Raises:
        RequestError: `traits` is malformed, or asks for what cannot be scored.
    """
    body = b"".join(message.get("body", b"") for message in received)
    names = [name for name in (_FIELD, *_WITHOUT_SCORES) if f'"{name}"'.encode() in body]
    # A body that says none of them, which is the usual one, need not be read.
    fields = _decode(body) if names else {}
    if fields is None:
        return None, scope, received
    said = _FIELD in fields
    asked = fields.pop(_FIELD, None)
    selection: Selection | Unscorable | None = select(asked, monitor.traits, monitor.default)
    without = [what for name, what in _WITHOUT_SCORES.items() if fields.get(name)]
    if without and asked is not None and selection is not None:
        raise RequestError(f"traits: {without[0]} carries no scores; leave one of the two out.")
    if fields.get(_BEAM_SEARCH):
        # Its beams share states and are dropped and continued: no run of tokens that could be scored.
        monitor.recorder.not_attached("not_scorable")
        selection = Unscorable.UNSCORABLE
    elif without:
        selection = None
    if said:
        scope, received = _with_body(scope, fields)
    return selection, scope, received


class _AnswerRewriter:
    """A `send` that rewrites answers: a JSON body as a whole, a stream event by event, anything else not at all."""

    def __init__(self, attacher: Attacher, send: Send, recorder: Recorder):
        self._attacher = attacher
        self._recorder = recorder
        self._send = send
        self._held: Message | None = None
        self._body = b""
        self._events: EventSplitter | None = None
        self._broken = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._start(message)
        elif message["type"] != "http.response.body":
            await self._send(message)
        elif self._held is not None:
            await self._json(message, self._held)
        elif self._events is not None:
            await self._stream(message, self._events)
        else:
            await self._send(message)

    async def _start(self, message: Message) -> None:
        media_type = Headers(raw=message["headers"]).get("content-type", "").partition(";")[0].strip()
        if message["status"] == 200 and media_type == "application/json":
            self._held = message
            return
        if message["status"] == 200 and media_type == "text/event-stream":
            self._events = EventSplitter()
        await self._send(message)

    async def _json(self, message: Message, start: Message) -> None:
        self._body += message.get("body", b"")
        if message.get("more_body", False):
            return
        try:
            body = await self._attacher.body(self._body)
        except Exception:  # noqa: BLE001 (a monitoring failure must not fail a generation)
            self._failed()
            body = self._body
        MutableHeaders(raw=start["headers"])["content-length"] = str(len(body))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})

    async def _stream(self, message: Message, events: EventSplitter) -> None:
        body = b"".join([await self._event(event) for event in events.feed(message.get("body", b""))])
        more = message.get("more_body", False)
        if not more:
            body += events.rest()
        if body or not more:
            await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def _event(self, event: bytes) -> bytes:
        if self._broken:
            return event
        try:
            return await self._attacher.event(event)
        except Exception:  # noqa: BLE001 (a monitoring failure must not fail a generation)
            self._failed()
            return event

    def _failed(self) -> None:
        """Count and log a failure of ours; from here on vLLM's answer goes out as it is."""
        self._broken = True
        self._recorder.not_attached("internal_error")
        logger.exception("Scores could not be attached; the answer goes out without.")


async def _receive_body(receive: Receive) -> list[Message]:
    """Receive the messages of a request body, up to the last or to the client's leaving."""
    messages = []
    while True:
        message = await receive()
        messages.append(message)
        if message["type"] != "http.request" or not message.get("more_body", False):
            return messages


def _replay(messages: list[Message], receive: Receive) -> Receive:
    """Return a `receive` that gives `messages` first."""
    waiting = iter(messages)

    async def replay() -> Message:
        for message in waiting:
            return message
        return await receive()

    return replay


def _with_body(scope: Scope, fields: dict[str, Any]) -> tuple[Scope, list[Message]]:
    body = msgspec.json.encode(fields)
    headers = MutableHeaders(raw=list(scope["headers"]))
    headers["content-length"] = str(len(body))
    return {**scope, "headers": headers.raw}, [{"type": "http.request", "body": body, "more_body": False}]


def _decode(body: bytes) -> dict[str, Any] | None:
    """Return a JSON object's fields; None for anything else, which vLLM answers with its own error."""
    try:
        fields = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None
    return fields if isinstance(fields, dict) else None
