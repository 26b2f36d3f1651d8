"""Scores are attached to answers; everything else passes byte for byte. The application behind it is a recorder."""

import json
import struct
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.types import Message, Receive, Scope, Send

from server.metrics import Metrics
from server.middleware import TraitsMiddleware
from server.monitor import Monitor
from server.transport import REQUEST_KEY, Frame, Span
from tests.unit.traits import served_trait

CHAT = "/v1/chat/completions"


class App:
    """Stands where vLLM stands: keeps what it was asked, has rows delivered, answers with given pieces."""

    def __init__(
        self, pieces: list[bytes], media_type: str = "application/json", status: int = 200, rows: int = 0
    ) -> None:
        self.pieces = pieces
        self.media_type = media_type
        self.status = status
        self.rows = rows
        self.monitor: Monitor | None = None
        self.req_id = "chatcmpl-1-2"
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
        if self.rows and self.monitor is not None:
            key = json.loads(self.body)["vllm_xargs"][REQUEST_KEY]
            data = b"".join(float_bytes(value) for value in range(self.rows))
            self.monitor.ledger.deliver(Frame([2], [Span(key, self.req_id, -1, self.rows)], data))
        headers = [(b"content-type", self.media_type.encode()), (b"x-test", b"1")]
        if self.media_type == "application/json":
            headers.append((b"content-length", str(sum(map(len, self.pieces))).encode()))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for i, piece in enumerate(self.pieces):
            await send({"type": "http.response.body", "body": piece, "more_body": i < len(self.pieces) - 1})


def float_bytes(value: float) -> bytes:

    return struct.pack("<f", value)


class Call:
    """What came back of one request."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.messages[1:])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])

    @property
    def events(self) -> list[Any]:
        lines = [line.removeprefix(b"data: ") for line in self.body.split(b"\n\n") if line.startswith(b"data: {")]
        return [json.loads(line) for line in lines]


@pytest.fixture
def monitor(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> Monitor:
    monkeypatch.setattr("server.attach.ROWS_TIMEOUT", 0.05)
    return Monitor([served_trait(mean=0.0, std=1.0)], "tokens", "api", Metrics(registry))


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


async def call(app: App, monitor: Monitor, body: bytes, path: str = CHAT, method: str = "POST") -> Call:
    app.monitor = monitor
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


def chunk(text: str, tokens: list[int], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish, "token_ids": tokens}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


ANSWER = {"id": "x", "choices": [{"index": 0, "token_ids": [5, 6, 7], "text": "é"}], "prompt_token_ids": [1, 2]}


async def test_a_json_answer_gets_scores_and_loses_what_was_not_asked_for(monitor: Monitor) -> None:
    body = json.dumps(ANSWER).encode()
    app = App([body[:11], body[11:]], rows=3)
    result = await call(app, monitor, b'{"messages": [], "vllm_xargs": {"mine": 1}}')
    answer = json.loads(result.body)
    choice = answer["choices"][0]
    assert choice["traits"]["paternalism"]["tokens"] == [1.0, 2.0, None]
    assert choice["traits"]["paternalism"]["prompt_last"] == 0.0
    assert choice["traits"]["paternalism"]["mean"] == 1.5
    assert choice["traits_complete"] is True
    assert choice["token_ids"] is None
    assert answer["prompt_token_ids"] is None
    assert choice["text"] == "é"
    assert result.headers[b"content-length"] == str(len(result.body)).encode()
    assert result.headers[b"x-test"] == b"1"
    asked = json.loads(app.body)
    assert asked["return_token_ids"] is True
    assert asked["vllm_xargs"]["mine"] == 1


async def test_the_request_loses_its_traits_field(monitor: Monitor) -> None:
    app = App([json.dumps(ANSWER).encode()], rows=3)
    await call(app, monitor, b'{"messages": [], "traits": {"include": ["paternalism"]}}')
    assert "traits" not in json.loads(app.body)


async def test_token_ids_stay_for_the_client_that_asked(monitor: Monitor) -> None:
    app = App([json.dumps(ANSWER).encode()], rows=3)
    answer = json.loads((await call(app, monitor, b'{"return_token_ids": true}')).body)
    assert answer["choices"][0]["token_ids"] == [5, 6, 7]
    assert answer["prompt_token_ids"] == [1, 2]


@pytest.mark.parametrize("cut", [1, 3, 8, 1000])
async def test_a_stream_joins_to_the_whole_however_it_is_cut(monitor: Monitor, cut: int) -> None:
    stream = b": ping\n\n" + chunk("a", [5]) + chunk("b", [6, 7]) + chunk("", [8], "stop") + b"data: [DONE]\n\n"
    app = App([stream[i : i + cut] for i in range(0, len(stream), cut)], "text/event-stream; charset=utf-8", rows=4)
    result = await call(app, monitor, b'{"stream": true}')
    parts = [event["choices"][0] for event in result.events]
    assert [p.get("traits", {}).get("paternalism", {}).get("start") for p in parts] == [None, 0, 2]
    assert parts[1]["traits"]["paternalism"]["tokens"] == [1.0, 2.0]
    assert parts[2]["traits"]["paternalism"]["tokens"] == [3.0, None]
    assert parts[2]["traits"]["paternalism"]["mean"] == 2.0
    assert parts[2]["traits_complete"] is True
    assert "traits_complete" not in parts[1]
    assert [p["token_ids"] for p in parts] == [None] * 3
    assert result.body.startswith(b": ping\n\n")
    assert result.body.endswith(b"data: [DONE]\n\n")


async def test_usage_events_pass_untouched(monitor: Monitor) -> None:
    usage = b'data: {"choices":[],"usage":{"completion_tokens":1}}\n\n'
    app = App([chunk("", [8], "stop"), usage], "text/event-stream", rows=1)
    assert usage in (await call(app, monitor, b'{"stream": true}')).body


async def test_rows_that_do_not_come_cost_the_scores_and_not_the_answer(
    monitor: Monitor, registry: CollectorRegistry
) -> None:
    app = App([json.dumps(ANSWER).encode()], rows=2)
    choice = json.loads((await call(app, monitor, b"{}" + b" " * 9)).body)["choices"][0]
    assert choice["text"] == "é"
    assert choice["traits_complete"] is False
    assert choice["traits"]["paternalism"]["tokens"] == [1.0, None, None]
    assert registry.get_sample_value("traitwatch_responses_incomplete_total", {"reason": "rows_missing"}) == 1
    assert registry.get_sample_value("traitwatch_responses_scored_total") == 0


async def test_an_answer_without_token_ids_is_not_called_complete(
    monitor: Monitor, registry: CollectorRegistry
) -> None:
    answer = {"choices": [{"index": 0, "token_ids": None, "text": "x"}]}
    app = App([json.dumps(answer).encode()], rows=2)
    choice = json.loads((await call(app, monitor, b"{}" + b" " * 9)).body)["choices"][0]
    assert choice["traits_complete"] is False
    labels = {"reason": "token_count_unknown"}
    assert registry.get_sample_value("traitwatch_responses_incomplete_total", labels) == 1


COMPLETIONS = "/v1/completions"


async def test_an_echoed_prompt_is_kept_and_the_tokens_are_counted_from_the_usage(monitor: Monitor) -> None:
    """vLLM leaves an echoed prompt out when it is asked for token ids."""
    answer = {"choices": [{"index": 0, "token_ids": None, "text": "x"}], "usage": {"completion_tokens": 3}}
    app = App([json.dumps(answer).encode()], rows=3)
    result = await call(app, monitor, b'{"prompt": "p", "echo": true}', COMPLETIONS)
    assert "return_token_ids" not in json.loads(app.body)
    choice = json.loads(result.body)["choices"][0]
    assert choice["traits"]["paternalism"]["tokens"] == [1.0, 2.0, None]
    assert choice["traits_complete"] is True


async def test_n_is_read_as_vllm_reads_it(monitor: Monitor) -> None:
    """A lenient "2" makes prompt 1's first choice the third of the response, not the second."""
    choices = [{"index": i, "token_ids": [5, 6], "text": "x"} for i in range(4)]
    app = App([json.dumps({"choices": choices}).encode()], rows=2)
    app.req_id = "cmpl-id-1-random"
    result = await call(app, monitor, b'{"prompt": ["p", "q"], "n": "2"}', COMPLETIONS)
    complete = [choice["traits_complete"] for choice in json.loads(result.body)["choices"]]
    assert complete == [False, False, True, False]


async def test_events_that_exist_for_their_token_ids_alone_are_not_sent(monitor: Monitor) -> None:
    """vLLM sends them while a tool parser makes up its mind; without token ids it sends nothing."""
    silent = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":null,"token_ids":[6]}]}\n\n'
    stream = [chunk("a", [5]), silent, silent, chunk("b", [7]), chunk("", [8], "stop")]
    app = App(stream, "text/event-stream", rows=5)
    parts = [event["choices"][0] for event in (await call(app, monitor, b'{"stream": true}')).events]
    assert [part["delta"] for part in parts] == [{"content": "a"}, {"content": "b"}, {"content": ""}]
    tokens = [t for part in parts for t in part.get("traits", {}).get("paternalism", {}).get("tokens", [])]
    assert tokens == [1.0, 2.0, 3.0, 4.0, None]


@pytest.mark.parametrize("media_type", ["application/json", "text/event-stream"])
async def test_a_failure_of_ours_leaves_vllms_answer(
    monitor: Monitor, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, media_type: str
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("server.attach.summary", broken)
    answer = json.dumps(ANSWER).encode() if media_type == "application/json" else chunk("a", [5], "stop")
    result = await call(App([answer], media_type, rows=3), monitor, b'{"messages": []}')
    assert result.messages[0]["status"] == 200
    assert result.body == answer
    labels = {"reason": "internal_error"}
    assert registry.get_sample_value("traitwatch_responses_incomplete_total", labels) == 1


@pytest.mark.parametrize(
    ("body", "path", "method"),
    [
        (b'{"messages": [],   "traits_like": 1}', CHAT, "POST"),
        (b"{not json at all", CHAT, "POST"),
        (b'["a", "list"]   ', CHAT, "POST"),
        (b'{"traits": true, "input": "x"}', "/v1/embeddings", "POST"),
        (b'{"traits": true}', CHAT, "GET"),
    ],
)
async def test_what_is_not_to_be_scored_passes_byte_for_byte(
    registry: CollectorRegistry, body: bytes, path: str, method: str
) -> None:
    off = Monitor([served_trait()], "off", "api", Metrics(registry))
    pieces = [b'{"a":  1,', b' "choices": [{"index": 0}]}']
    app = App(pieces)
    result = await call(app, off, body, path, method)
    assert app.body == body
    assert [m.get("body") for m in result.messages[1:]] == pieces


async def test_traits_false_is_taken_out_and_the_answer_left_alone(monitor: Monitor) -> None:
    pieces = [b'{"choices":  [{"index": 0}]}']
    app = App(pieces)
    result = await call(app, monitor, b'{"traits": false, "messages": []}')
    assert json.loads(app.body) == {"messages": []}
    assert result.body == pieces[0]


async def test_an_error_of_vllms_passes_untouched(monitor: Monitor) -> None:
    error = b'{"error":  {"message": "no"}}'
    result = await call(App([error], status=400), monitor, b'{"traits": true}')
    assert result.messages[0]["status"] == 400
    assert result.body == error


async def test_an_unknown_trait_is_a_400_and_vllm_is_not_asked(monitor: Monitor) -> None:
    app = App([b"{}"])
    result = await call(app, monitor, b'{"traits": {"include": ["kindness"]}}')
    assert result.messages[0]["status"] == 400
    assert json.loads(result.body)["error"]["param"] == "traits"
    assert app.body == b""


@pytest.mark.parametrize("error", [None, RuntimeError("client left")])
async def test_the_ledger_is_empty_afterwards(monitor: Monitor, error: Exception | None) -> None:
    app = App([json.dumps(ANSWER).encode()], rows=3)
    app.error = error
    if error is None:
        await call(app, monitor, b'{"traits": true}')
    else:
        with pytest.raises(RuntimeError):
            await call(app, monitor, b'{"traits": true}')
    assert len(monitor.ledger) == 0


async def test_two_requests_get_different_keys(monitor: Monitor) -> None:
    keys = set()
    for _ in range(2):
        app = App([json.dumps(ANSWER).encode()], rows=3)
        await call(app, monitor, b'{"traits": true}')
        keys.add(json.loads(app.body)["vllm_xargs"][REQUEST_KEY])
    assert len(keys) == 2
    assert all(key.startswith("api:") for key in keys)
