"""The ASGI middleware: decides which requests are scored, and attaches the scores to their responses.

While a scored request is handled, the context variable `SCORED_REQUEST` holds it, and the engine's `generate` finds it
there. Requests without a `traits` field reach vLLM unchanged. Responses without scores reach the client unchanged.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from traitwatch.vllm_private.api_process import RefusedError
from traitwatch_server.errors import RequestError
from traitwatch_server.monitor import Monitor
from traitwatch_server.recording.recorder import Recorder
from traitwatch_server.responses.attach import Attacher, EventSplitter
from traitwatch_server.responses.endpoints import Shape, Without, shape_of
from traitwatch_server.responses.paths import route_path
from traitwatch_server.responses.refusals import refusal
from traitwatch_server.responses.request_body import (
    decode,
    is_true,
    is_zero,
    may_contain,
    receive_body,
    replay,
    value_of,
    with_body,
)
from traitwatch_server.responses.scored_request import SCORED_REQUEST, ScoredRequest, Unscorable
from traitwatch_server.responses.selection import Selection, select

_FIELD = "traits"
_ECHO = "echo"
_EXTRA_BODY = "extra_body"
# A message of an answer has some more bytes than this at most.
_MESSAGE_BYTES = 2**17
_CALLED = {Without.BEAM_SEARCH: "beam search", Without.BACKGROUND: "a background response"}

logger = logging.getLogger(__name__)


class TraitsMiddleware:
    """Scores the answers of the paths that have a shape (`traitwatch_server.responses.endpoints`)."""

    def __init__(self, app: ASGIApp, monitor: Callable[[], Monitor]):
        """Stand in front of an application.

        Args:
            app: the application.
            monitor: returns the monitor. It is called for each request: when the app is built, the engine is not up.
        """
        self._app = app
        self._monitor = monitor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        shape = shape_of(route_path(scope)) if scope["type"] == "http" and scope["method"] == "POST" else None
        if shape is None:
            await self._app(scope, receive, send)
            return
        monitor = self._monitor()
        received = await receive_body(receive)
        try:
            selection, scope, received = _read_request(scope, received, shape, monitor)
        except RequestError as error:
            await refusal(400, str(error), path=route_path(scope), param=_FIELD)(scope, receive, send)
            return
        receive = replay(received, receive)
        # A stream may last for minutes, and the body may be large.
        del received
        if not isinstance(selection, Selection):
            with _while_handled(selection):
                await self._app(scope, receive, send)
            return
        request = ScoredRequest(selection, monitor.ledger)
        rewriter = _AnswerRewriter(Attacher(request, shape, monitor.pacer), send, monitor.recorder)
        with closing(request), _while_handled(request):
            try:
                await self._app(scope, receive, rewriter)
            except Exception as error:
                refused = _refusal_behind(error)
                if refused is None or not await rewriter.end_stream(refused):
                    raise


def _refusal_behind(error: BaseException | None) -> RefusedError | None:
    """Return the refusal of the engine client that ended a stream; None where something else did."""
    while error is not None and not isinstance(error, RefusedError):
        # Starlette raises another error from the first, where a response has begun.
        error = error.__cause__
    return error


@contextmanager
def _while_handled(request: ScoredRequest | Unscorable | None) -> Iterator[None]:
    """Have `SCORED_REQUEST` hold `request` meanwhile, for the calls of the engine."""
    token = SCORED_REQUEST.set(request)
    try:
        yield
    finally:
        SCORED_REQUEST.reset(token)


def _read_request(
    scope: Scope, received: list[Message], shape: Shape, monitor: Monitor
) -> tuple[Selection | Unscorable | None, Scope, list[Message]]:
    """Decide what a response carries, and remove the `traits` field from the request's body.

    Returns:
        What the response carries (None: no scores), and the scope and the messages of the request for vLLM.

    Raises:
        RequestError: `traits` is malformed, or asks for scores that the response cannot carry.
    """
    body = b"".join(message.get("body", b"") for message in received)
    names = (_FIELD, _ECHO) if shape.without is None else (_FIELD, _ECHO, shape.without.value)
    # A body without these fields, which is the usual one, need not be decoded.
    fields = decode(body) if may_contain(body, *names) else {}
    try:
        asked, extra, echo_only, without = _read_fields(fields or {}, shape)
    except (ValueError, RecursionError):
        fields = None
    if fields is None:
        return None, scope, received
    if asked is None and isinstance(extra, dict) and _FIELD in extra:
        raise RequestError(
            "traits: it stands inside extra_body, which is an argument of OpenAI's Python client and no field of a "
            'request; put "traits" beside "model".'
        )
    selection: Selection | Unscorable | None = select(asked, monitor.traits, monitor.default, monitor.allow)
    if isinstance(selection, Selection) and echo_only:
        selection = replace(selection, echo_only=True)
    if shape.without is not None and without:
        if asked is not None and selection is not None:
            raise RequestError(f"traits: {_CALLED[shape.without]} carries no scores; leave one of the two out.")
        selection = None
        if shape.without is Without.BEAM_SEARCH:
            monitor.recorder.not_attached("not_scorable")
            selection = Unscorable.UNSCORABLE
    if _FIELD in fields:
        del fields[_FIELD]
        scope, received = with_body(scope, fields)
    return selection, scope, received


def _read_fields(fields: Mapping[str, msgspec.Raw], shape: Shape) -> tuple[object, object, bool, bool]:
    """Return `traits`, `extra_body`, whether the answer is the prompt alone, and whether it can carry no scores.

    Raises:
        ValueError: a field is no JSON; or RecursionError.
    """
    # vLLM generates a token for the echo of a prompt, and drops it.
    echo_only = shape.echoes and is_true(value_of(fields.get(_ECHO))) and is_zero(value_of(fields.get("max_tokens")))
    without = shape.without is not None and is_true(value_of(fields.get(shape.without.value)))
    return value_of(fields.get(_FIELD)), value_of(fields.get(_EXTRA_BODY)), echo_only, without


class _AnswerRewriter:
    """A `send` that rewrites answers: a JSON body as a whole, a stream event by event, anything else not at all."""

    def __init__(self, attacher: Attacher, send: Send, recorder: Recorder):
        """Stand in front of a `send`.

        Args:
            attacher: adds the scores.
            send: sends to the client.
            recorder: counts the answers to which no scores could be attached.
        """
        self._attacher = attacher
        self._recorder = recorder
        self._send = send
        self._held: Message | None = None
        self._parts: list[bytes] = []
        self._events: EventSplitter | None = None

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

    async def end_stream(self, refused: RefusedError) -> bool:
        """End a stream that has begun with an event that says why; return False where no stream has begun."""
        if self._events is None:
            return False
        event = {"type": "error", "code": "invalid_request_error", "message": str(refused), "param": _FIELD}
        body = b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"
        await self._send({"type": "http.response.body", "body": body, "more_body": False})
        return True

    async def _start(self, message: Message) -> None:
        media_type = Headers(raw=message["headers"]).get("content-type", "").partition(";")[0].strip()
        if message["status"] == 200 and media_type == "application/json":
            self._held = message
            return
        if message["status"] == 200 and media_type == "text/event-stream":
            self._events = EventSplitter()
        await self._send(message)

    async def _json(self, message: Message, start: Message) -> None:
        self._parts.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        body = b"".join(self._parts)
        self._parts.clear()
        pieces = await self._attached(self._attacher.body, body)
        MutableHeaders(raw=start["headers"])["content-length"] = str(sum(map(len, pieces)))
        await self._send(start)
        await self._send_pieces(pieces, more=False)

    async def _stream(self, message: Message, events: EventSplitter) -> None:
        pieces: list[bytes] = []
        for part in events.feed(message.get("body", b"")):
            pieces += await self._attached(self._attacher.event, part)
        more = message.get("more_body", False)
        if not more:
            pieces.append(events.rest())
        if pieces or not more:
            await self._send_pieces(pieces, more=more)

    async def _send_pieces(self, pieces: list[bytes], *, more: bool) -> None:
        """Send a body in messages of `_MESSAGE_BYTES` or so: a short one, as nearly all are, in one message."""
        waiting: list[bytes] = []
        size = 0
        for piece in pieces:
            if size > _MESSAGE_BYTES:
                await self._send({"type": "http.response.body", "body": b"".join(waiting), "more_body": True})
                await asyncio.sleep(0)
                waiting, size = [], 0
            waiting.append(piece)
            size += len(piece)
        body = waiting[0] if len(waiting) == 1 else b"".join(waiting)
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def _attached(self, attach: Callable[[bytes], Awaitable[list[bytes]]], part: bytes) -> list[bytes]:
        """Return a part of vLLM's answer with its scores; after a failure of ours with `"traits_complete": false`."""
        # The first failure is of the scores. If adding `traits_complete` fails too, vLLM's answer goes out unchanged.
        for _ in range(2):
            try:
                return await attach(part)
            except Exception:
                # A monitoring failure must not fail a generation.
                if not self._attacher.given_up:
                    self._recorder.not_attached("internal_error")
                    logger.exception("Scores could not be attached; the answer goes out without them.")
                self._attacher.given_up = True
        return [part]
