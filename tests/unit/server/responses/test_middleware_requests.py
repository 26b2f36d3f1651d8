"""The fields of a request decide whether its answer is scored. vLLM gets the request without our field."""

import gc
import json
import tracemalloc

import pytest
from prometheus_client import CollectorRegistry
from starlette.types import Message, Receive, Scope, Send

from tests.support.asgi import (
    ASKED,
    CHAT,
    COMPLETIONS,
    EVENTS,
    FIRST_CHOICE,
    MESSAGES,
    RESPONSES,
    App,
    call,
    choices,
    chunk,
    monitor_of,
    settled,
)
from tests.support.engine import TOKENS
from tests.support.samples import sample
from traitwatch_server.monitor import Monitor
from traitwatch_server.responses.middleware import TraitsMiddleware


async def test_the_request_loses_its_traits_field(monitor: Monitor) -> None:
    app = App(monitor, choices(0))
    await call(app, monitor, b'{"messages": [], "traits": {"include": ["paternalism"]}}')
    assert json.loads(app.body) == {"messages": []}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (RESPONSES, b'"use_beam_search": true'),
        (MESSAGES, b'"use_beam_search": true'),
        (CHAT, b'"use_beam_search": "false"'),
        (COMPLETIONS, b'"use_beam_search": "0"'),
        (CHAT, b'"use_beam_search": null'),
        (CHAT, b'"background": true'),
        (MESSAGES, b'"background": true'),
        (RESPONSES, b'"background": "off"'),
    ],
    ids=str,
)
async def test_a_field_without_meaning_to_vllm_does_not_turn_scoring_off(
    monitor: Monitor, registry: CollectorRegistry, path: str, fields: bytes
) -> None:
    answer = b'{"output": []}' if path in (RESPONSES, MESSAGES) else choices(0)
    result = await call(App(monitor, answer), monitor, b'{"traits": true, ' + fields + b"}", path)
    (carrier,) = result.json.get("choices", [result.json])
    assert carrier["traits_complete"] is True
    assert sample(registry, "responses_scored_total") == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"use\\u005fbeam_search": true}',
        b'{"top_p": NaN, "use_beam_search": "yes"}',
        '{"use_beam_search": 1}'.encode("utf-16"),
    ],
    ids=["escaped", "with what is no JSON", "UTF-16"],
)
async def test_a_beam_search_is_found_in_every_spelling(
    monitor: Monitor, registry: CollectorRegistry, body: bytes
) -> None:
    app = App(monitor, choices(0))
    assert (await call(app, monitor, body)).body == choices(0)
    assert app.body == body
    assert sample(registry, "responses_incomplete_total", reason="not_scorable") == 1
    assert sample(registry, "responses_scored_total") == 0


@pytest.mark.parametrize("traits", ["traits", "tr\\u0061its"])
async def test_vllm_gets_the_bytes_of_the_client(monitor: Monitor, traits: str) -> None:
    """This includes half a pair of surrogates and NaN, which vLLM accepts."""
    app = App(monitor, choices(0))
    body = b'{"top_p": NaN, "user": "\\ud800", "' + traits.encode() + b'": {"include": ["paternalism"]}}'
    result = await call(app, monitor, body)
    assert list(result.json["choices"][0]["traits"]) == ["paternalism"]
    assert app.body == b'{"top_p": NaN, "user": "\\ud800"}'


@pytest.mark.parametrize(
    ("body", "path", "method"),
    [
        (b'{"messages": [],   "traits_like": 1}', CHAT, "POST"),
        (b'{"messages": [{"content":   "say \\"traits\\"", "traits": 1}]}', CHAT, "POST"),
        (b'{"traits": not json at all', CHAT, "POST"),
        (b'["traits",   "a list"]   ', CHAT, "POST"),
        (b'{"traits": "\xff"}', CHAT, "POST"),
        (b'{"traits": true, "deep": ' + b"[" * 100_000, CHAT, "POST"),
        (b'{"traits": true, "input": "x"}', "/v1/embeddings", "POST"),
        (b'{"traits": true}', CHAT, "GET"),
    ],
)
async def test_a_request_that_is_not_to_be_scored_passes_byte_for_byte(
    registry: CollectorRegistry, body: bytes, path: str, method: str
) -> None:
    off = monitor_of(registry, "off")
    answer = b'{"a":  1, "choices": [{"index": 0}]}'
    app = App(off, answer)
    result = await call(app, off, body, path, method)
    assert app.body == body
    assert result.body == answer


async def test_traits_false_is_removed_and_the_answer_is_unchanged(monitor: Monitor) -> None:
    answer = b'{"choices":  [{"index": 0}]}'
    app = App(monitor, answer)
    result = await call(app, monitor, b'{"traits": false, "messages": []}')
    assert json.loads(app.body) == {"messages": []}
    assert result.body == answer


@pytest.mark.parametrize(
    "traits", [b'{"include": ["kindness"]}', b'{"tokens": 1}', b'{"layer": 3}', b'"all"'], ids=repr
)
async def test_a_selection_that_is_impossible_is_a_400_without_a_call_of_vllm(monitor: Monitor, traits: bytes) -> None:
    app = App(monitor, b"{}")
    result = await call(app, monitor, b'{"traits": ' + traits + b"}")
    assert result.messages[0]["status"] == 400
    assert result.json["error"]["param"] == "traits"
    assert app.body == b""
    assert app.engine.seen == []


async def test_a_request_that_cannot_be_scored_is_answered_unscored_and_counted(
    monitor: Monitor, registry: CollectorRegistry
) -> None:
    body = json.dumps({"messages": [], "use_beam_search": True}).encode()
    app = App(monitor, choices(0), n=2)
    result = await call(app, monitor, body)
    assert app.body == body
    assert result.body == choices(0)
    assert not app.engine.seen[0].extra_args
    assert sample(registry, "responses_incomplete_total", reason="not_scorable") == 1
    assert sample(registry, "tokens_unscored_total", reason="not_scorable") == 2 * len(TOKENS[0])
    assert sample(registry, "tokens_scored_total") == 0


async def test_a_background_response_carries_no_scores_and_is_recorded(
    monitor: Monitor, registry: CollectorRegistry
) -> None:
    body = json.dumps({"input": "", "background": True}).encode()
    result = await call(App(monitor, b'{"output":  []}'), monitor, body, RESPONSES)
    assert result.body == b'{"output":  []}'
    await settled(monitor)
    assert sample(registry, "responses_scored_total") == 1


@pytest.mark.parametrize(("path", "field"), [(CHAT, "use_beam_search"), (RESPONSES, "background")])
async def test_scores_that_a_response_cannot_carry_are_refused(monitor: Monitor, path: str, field: str) -> None:
    app = App(monitor, b"{}")
    refused = await call(app, monitor, json.dumps({field: True, "traits": True}).encode(), path)
    assert refused.messages[0]["status"] == 400
    assert "carries no scores" in refused.json["error"]["message"]
    assert app.engine.seen == []


@pytest.mark.parametrize("body", [b'{"extra_body": {"traits": true}}', b'{"extra_body": {"tr\\u0061its": {}}}'])
async def test_traits_that_vllm_would_ignore_are_refused(monitor: Monitor, body: bytes) -> None:
    """OpenAI's Python client puts the fields of `extra_body` beside the others; no server reads `extra_body`."""
    app = App(monitor, choices(0))
    result = await call(app, monitor, body)
    assert result.messages[0]["status"] == 400
    assert "extra_body" in result.json["error"]["message"]
    assert app.body == b""


async def test_an_extra_body_without_traits_passes_byte_for_byte(monitor: Monitor) -> None:
    app = App(monitor, choices(0))
    body = b'{"extra_body": {"top_k": 3,  "tags": ["traits"]}}'
    assert (await call(app, monitor, body)).messages[0]["status"] == 200
    assert app.body == body


@pytest.mark.parametrize("media_type", ["application/json", EVENTS])
@pytest.mark.parametrize("zero", [b"0", b'"0"', b"0.0"])
async def test_the_echo_of_a_prompt_has_no_token(monitor: Monitor, media_type: str, zero: bytes) -> None:
    """With `echo` and `max_tokens: 0`, vLLM generates a token that the answer has not."""
    app = App(monitor, choices(0) if media_type == "application/json" else chunk, media_type)
    result = await call(app, monitor, b'{"echo": true, "max_tokens": %b}' % zero, COMPLETIONS)
    answers = [result.json] if media_type == "application/json" else result.events
    traits = [answer["choices"][0].get("traits") for answer in answers]
    assert traits[:-1] == [None] * (len(answers) - 1)
    assert traits[-1]["paternalism"]["tokens"] == []
    assert traits[-1]["paternalism"]["prompt_last"] == 51.0


@pytest.mark.parametrize("body", [b'{"echo": true, "max_tokens": 3}', b'{"max_tokens": 0}', b'{"echo": "x"}'])
async def test_other_echoes_keep_their_tokens(monitor: Monitor, body: bytes) -> None:
    result = await call(App(monitor, choices(0)), monitor, body, COMPLETIONS)
    assert result.json["choices"][0]["traits"]["paternalism"]["tokens"] == FIRST_CHOICE


async def test_a_request_for_more_than_allowed_does_not_reach_the_model(registry: CollectorRegistry) -> None:
    monitor = monitor_of(registry, "summary")
    monitor.allow = "summary"
    app = App(monitor, choices(0))
    result = await call(app, monitor, b'{"traits": true}', MESSAGES)
    assert result.messages[0]["status"] == 400
    assert result.json["type"] == "error"
    assert "--traits-allow summary" in result.json["error"]["message"]
    assert not app.engine.seen
    assert (await call(app, monitor, ASKED)).json["choices"][0]["traits"]["paternalism"]["mean"] == 3.75


async def test_the_body_of_a_request_is_let_go_once_vllm_has_read_it(monitor: Monitor) -> None:
    """A stream may last for minutes."""
    size = 30_000_000
    taken: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        gc.collect()
        taken.append(tracemalloc.get_traced_memory()[0])

    def request() -> Receive:
        waiting = [{"type": "http.request", "body": b'{"traits": true, "prompt": "%b"}' % (b"x" * size)}]

        async def receive() -> Message:
            return waiting.pop()

        return receive

    async def send(message: Message) -> None:
        return None

    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": []}
    tracemalloc.start()
    try:
        await TraitsMiddleware(app, lambda: monitor)(scope, request(), send)
    finally:
        tracemalloc.stop()
    assert taken[0] < size / 10
