"""Scores are attached to answers; everything else passes byte for byte. The application behind it is a recorder."""

import asyncio
import json
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from tests.support.asgi import CHAT, App, call
from tests.support.engine import TOKENS, Engine
from tests.support.samples import sample
from tests.support.traits import served_trait
from traitwatch_server.app.draining import Draining
from traitwatch_server.app.engine import watch
from traitwatch_server.metrics import Metrics
from traitwatch_server.monitor import Monitor
from traitwatch_server.settings import TraitsDefault
from traitwatch_server.traits import trait_set

COMPLETIONS, BATCH = "/v1/completions", "/v1/chat/completions/batch"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
EVENTS = "text/event-stream; charset=utf-8"
MINE = [3.5, 4.0, None]


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def monitor(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> Monitor:
    monkeypatch.setattr("traitwatch_server.responses.scored_request.ROWS_TIMEOUT", 0.05)
    monkeypatch.setattr("traitwatch_server.recording.recorder.ROWS_TIMEOUT", 0.05)
    return monitor_of(registry, "tokens")


def monitor_of(registry: CollectorRegistry, default: TraitsDefault) -> Monitor:
    return Monitor(trait_set([served_trait(mean=0.0, std=1.0)]), default, "api", Metrics(registry))


async def settled(monitor: Monitor) -> None:
    """Wait until everything is recorded and let go of, and tell Prometheus."""
    async with asyncio.timeout(20):
        while len(monitor.ledger):
            await asyncio.sleep(0.001)
    monitor.recorder.tally.flush()


def choices(*indices: int) -> bytes:
    return json.dumps({"id": "x", "choices": [{"index": i, "text": "é"} for i in indices]}).encode()


def chunk(number: int) -> bytes:
    choice = {"index": 0, "delta": {"content": "é"}, "finish_reason": "stop" if number == -1 else None}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def _data(number: int) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(chunk(number).removeprefix(b"data: "))
    return data


ASKED = b'{"messages": [] }'


@pytest.mark.parametrize("cut", [1, 11, 10**6])
async def test_a_json_answer_gets_scores(monitor: Monitor, cut: int) -> None:
    app = App(monitor, choices(0), cut=cut)
    result = await call(app, monitor, ASKED)
    (choice,) = result.json["choices"]
    assert choice["traits"]["paternalism"]["tokens"] == MINE
    assert choice["traits"]["paternalism"]["prompt_last"] == 51.0
    assert choice["traits"]["paternalism"]["mean"] == 3.75
    assert choice["traits_complete"] is True
    assert choice["text"] == "é"
    assert result.headers[b"content-length"] == str(len(result.body)).encode()
    assert result.headers[b"x-test"] == b"1"
    assert app.body == ASKED, "a request that says nothing of traits reaches vLLM byte for byte"


@pytest.mark.parametrize(
    "answer",
    [b'{"choices":null}', b"null", b'{"data": [{"embedding": [1.0e-3]}]}'],
    ids=["a server that ends", "a client that left", "an embedding"],
)
async def test_an_answer_without_choices_passes(monitor: Monitor, registry: CollectorRegistry, answer: bytes) -> None:
    result = await call(App(monitor, answer), monitor, ASKED)
    assert result.body == answer
    assert sample(registry, "responses_incomplete_total", reason="internal_error") == 0


async def test_the_request_loses_its_traits_field(monitor: Monitor) -> None:
    app = App(monitor, choices(0))
    await call(app, monitor, b'{"messages": [], "traits": {"include": ["paternalism"]}}')
    assert json.loads(app.body) == {"messages": []}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/invocations"])
async def test_each_choice_of_each_prompt_gets_its_own_scores(monitor: Monitor, path: str) -> None:
    """Choice k of prompt p is number p * n + k, in whatever order they stand."""
    app = App(monitor, choices(0, 3, 2, 1), n=2, calls=2)
    result = await call(app, monitor, b'{"prompt": "p", "n": "2"}', path)
    tokens = {choice["index"]: choice["traits"]["paternalism"]["tokens"] for choice in result.json["choices"]}
    assert tokens == {0: MINE, 1: [8.5, 9.0, None], 2: MINE, 3: [8.5, 9.0, None]}


async def test_the_choices_of_a_batch_are_in_the_order_of_its_conversations(monitor: Monitor) -> None:
    """With n = 2 vLLM gives both choices of a conversation its number as their index."""
    result = await call(App(monitor, choices(0, 0, 1, 1), n=2, calls=2), monitor, ASKED, BATCH)
    tokens = [choice["traits"]["paternalism"]["tokens"] for choice in result.json["choices"]]
    assert tokens == [MINE, [8.5, 9.0, None], MINE, [8.5, 9.0, None]]


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
async def test_an_answer_without_choices_gets_scores_at_its_top(monitor: Monitor, path: str) -> None:
    result = await call(App(monitor, b'{"id": "x", "output": []}'), monitor, ASKED, path)
    assert result.json["traits"]["paternalism"]["tokens"] == MINE
    assert result.json["traits_complete"] is True
    assert result.json["output"] == []


async def test_an_answer_of_several_turns_has_the_tokens_of_all(monitor: Monitor) -> None:
    """A response that calls a tool inside the server is generated in several calls of the engine."""
    result = await call(App(monitor, b'{"output": []}', calls=2), monitor, ASKED, RESPONSES)
    told = result.json["traits"]["paternalism"]
    assert told["tokens"] == [*MINE, *MINE]
    assert told["mean"] == 3.75


@pytest.mark.parametrize("cut", [1, 3, 8, 1000])
async def test_a_stream_joins_to_the_whole_however_it_is_cut(monitor: Monitor, cut: int) -> None:
    result = await call(App(monitor, chunk, EVENTS, cut=cut), monitor, b'{"stream": true}')
    parts = [event["choices"][0] for event in result.events]
    assert [part.get("traits", {}).get("paternalism", {}).get("start") for part in parts] == [None, 0, 1]
    assert parts[1]["traits"]["paternalism"]["tokens"] == [3.5]
    assert parts[2]["traits"]["paternalism"]["tokens"] == [4.0, None]
    assert parts[2]["traits"]["paternalism"]["mean"] == 3.75
    assert parts[2]["traits_complete"] is True
    assert "traits_complete" not in parts[1]
    assert result.body.startswith(chunk(0)), "an event that carries no scores is left as it is"
    assert result.body.endswith(b"data: [DONE]\n\n")


async def test_an_event_that_overtakes_its_rows_waits_for_them(monitor: Monitor) -> None:
    """A token's projection comes with the next event at the latest, whichever socket was faster."""
    app = App(monitor, chunk, EVENTS)
    app.engine.overtaken = True
    result = await call(app, monitor, b'{"stream": true}')
    parts = [event["choices"][0] for event in result.events]
    assert parts[1]["traits"]["paternalism"]["tokens"] == [3.5]
    assert parts[2]["traits"]["paternalism"]["tokens"] == [4.0, None]
    assert parts[2]["traits_complete"] is True


async def test_where_rows_lag_an_answer_waits_in_vain_once(monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("traitwatch_server.ledger.ledger.OVERTAKEN_TIMEOUT", 0.5)
    tokens = list(range(7, 47))
    app = App(monitor, lambda number: chunk(0), EVENTS)
    app.engine = Engine(monitor.ledger, [tokens], lost=range(1, 40))
    watch(app.engine, monitor, Draining(0))  # type: ignore[arg-type]
    # Were each of the 39 to wait, that would take twice as long.
    async with asyncio.timeout(10):
        result = await call(app, monitor, b'{"stream": true}')
    assert len(result.events) == len(tokens)


async def test_a_stream_of_responses(monitor: Monitor) -> None:
    """Its last event holds the whole response, so it holds the whole scores."""

    def event(number: int) -> bytes:
        kind = "response.completed" if number == -1 else "response.output_text.delta"
        data = {"type": kind, "delta": "é"} if number != -1 else {"type": kind, "response": {"id": "x"}}
        return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()

    result = await call(App(monitor, event, EVENTS), monitor, ASKED, RESPONSES)
    first, second, last = result.events
    assert "traits" not in first
    assert second["traits"] == {"paternalism": {"start": 0, "tokens": [3.5]}}
    assert last["response"]["traits"]["paternalism"]["tokens"] == MINE
    assert "start" not in last["response"]["traits"]["paternalism"]
    assert last["response"]["traits_complete"] is True
    assert result.body.count(b"event: response.") == 3


async def test_a_stream_of_messages(monitor: Monitor) -> None:
    def event(number: int) -> bytes:
        kind = "message_delta" if number == -1 else "content_block_delta"
        return f"event: {kind}\ndata: {json.dumps({'type': kind})}\n\n".encode()

    result = await call(App(monitor, event, EVENTS), monitor, ASKED, MESSAGES)
    first, second, last = result.events
    assert "traits" not in first
    assert second["traits"] == {"paternalism": {"start": 0, "tokens": [3.5]}}
    assert last["traits"]["paternalism"]["tokens"] == [4.0, None]
    assert last["traits"]["paternalism"]["mean"] == 3.75
    assert last["traits_complete"] is True


async def test_events_without_choices_pass_untouched(monitor: Monitor) -> None:
    odd = b': ping\n\ndata: {"choices":[],"usage":{"completion_tokens":1}}\n\ndata: {"error":  {}}\n\n'
    result = await call(App(monitor, lambda number: odd + chunk(number), EVENTS), monitor, ASKED)
    assert result.body.count(odd) == 3


async def test_rows_that_do_not_come_cost_the_scores_and_not_the_answer(
    monitor: Monitor, registry: CollectorRegistry
) -> None:
    app = App(monitor, choices(0))
    app.engine.lost = [1]
    (choice,) = (await call(app, monitor, ASKED)).json["choices"]
    assert choice["text"] == "é"
    assert choice["traits_complete"] is False
    assert choice["traits"]["paternalism"]["tokens"] == [3.5, None, None]
    await settled(monitor)
    assert sample(registry, "responses_incomplete_total", reason="rows_missing") == 1
    assert sample(registry, "responses_scored_total") == 0


async def test_a_full_ledger_answers_unscored_and_at_once(
    monitor: Monitor, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("traitwatch_server.ledger.ledger.MAX_OPEN_CALLS", 0)
    monkeypatch.setattr("traitwatch_server.responses.scored_request.ROWS_TIMEOUT", 3600)
    monkeypatch.setattr("traitwatch_server.recording.recorder.ROWS_TIMEOUT", 3600)
    (choice,) = (await call(App(monitor, choices(0)), monitor, ASKED)).json["choices"]
    assert choice["traits_complete"] is False
    assert choice["traits"]["paternalism"]["tokens"] == [None, None, None]
    assert sample(registry, "responses_incomplete_total", reason="ledger_full") == 1


@pytest.mark.parametrize("media_type", ["application/json", EVENTS])
async def test_a_failure_of_ours_leaves_vllms_answer_and_says_so(
    monitor: Monitor, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, media_type: str
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("traitwatch_server.ledger.scores.Scores.of", broken)
    answer = choices(0) if media_type == "application/json" else chunk
    result = await call(App(monitor, answer, media_type), monitor, ASKED)
    assert result.messages[0]["status"] == 200
    answers = [result.json] if media_type == "application/json" else result.events
    parts = [answer["choices"][0] for answer in answers]
    assert [part.pop("traits_complete", None) for part in parts] == [None] * (len(parts) - 1) + [False]
    # What had gone out before the failure was right.
    for part in parts[:-1]:
        part.pop("traits", None)
    theirs = [json.loads(choices(0))] if media_type == "application/json" else [_data(n) for n in (0, 1, -1)]
    assert parts == [answer["choices"][0] for answer in theirs]
    assert sample(registry, "responses_incomplete_total", reason="internal_error") == 1


async def test_an_answer_that_we_cannot_read_passes(monitor: Monitor, registry: CollectorRegistry) -> None:
    for media_type in ("application/json", EVENTS):
        answer = b'{"choices": [{}]}' if media_type == "application/json" else b'data: {"choices": [{}]}\n\n'
        result = await call(App(monitor, answer, media_type), monitor, ASKED)
        assert result.body.startswith(answer)
    assert sample(registry, "responses_incomplete_total", reason="internal_error") == 2


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
async def test_a_field_that_means_nothing_to_vllm_opts_out_of_nothing(
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
async def test_a_beam_search_is_seen_however_it_is_written(
    monitor: Monitor, registry: CollectorRegistry, body: bytes
) -> None:
    app = App(monitor, choices(0))
    assert (await call(app, monitor, body)).body == choices(0)
    assert app.body == body
    assert sample(registry, "responses_incomplete_total", reason="not_scorable") == 1
    assert sample(registry, "responses_scored_total") == 0


@pytest.mark.parametrize("traits", ["traits", "tr\\u0061its"])
async def test_what_goes_on_to_vllm_is_what_the_client_wrote(monitor: Monitor, traits: str) -> None:
    """Half a pair of surrogates and NaN too, which vLLM reads."""
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
async def test_what_is_not_to_be_scored_passes_byte_for_byte(
    registry: CollectorRegistry, body: bytes, path: str, method: str
) -> None:
    off = monitor_of(registry, "off")
    answer = b'{"a":  1, "choices": [{"index": 0}]}'
    app = App(off, answer)
    result = await call(app, off, body, path, method)
    assert app.body == body
    assert result.body == answer


async def test_traits_false_is_taken_out_and_the_answer_left_alone(monitor: Monitor) -> None:
    answer = b'{"choices":  [{"index": 0}]}'
    app = App(monitor, answer)
    result = await call(app, monitor, b'{"traits": false, "messages": []}')
    assert json.loads(app.body) == {"messages": []}
    assert result.body == answer


async def test_an_error_of_vllms_passes_untouched(monitor: Monitor) -> None:
    error = b'{"error":  {"message": "no"}}'
    result = await call(App(monitor, error, status=400), monitor, b'{"traits": true}')
    assert result.messages[0]["status"] == 400
    assert result.body == error


@pytest.mark.parametrize(
    "traits", [b'{"include": ["kindness"]}', b'{"tokens": 1}', b'{"layer": 3}', b'"all"'], ids=repr
)
async def test_what_cannot_be_honoured_is_a_400_and_vllm_is_not_asked(monitor: Monitor, traits: bytes) -> None:
    app = App(monitor, b"{}")
    result = await call(app, monitor, b'{"traits": ' + traits + b"}")
    assert result.messages[0]["status"] == 400
    assert result.json["error"]["param"] == "traits"
    assert app.body == b""
    assert app.engine.seen == []


async def test_what_cannot_be_scored_is_answered_unscored_and_counted(
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


@pytest.mark.parametrize("default", ["off", "tokens"])
@pytest.mark.parametrize("media_type", ["application/json", EVENTS])
async def test_whether_or_not_a_response_carries_scores_it_is_recorded(
    registry: CollectorRegistry, default: TraitsDefault, media_type: str
) -> None:
    monitor = monitor_of(registry, default)
    answer = choices(0, 1) if media_type == "application/json" else chunk
    await call(App(monitor, answer, media_type, n=2), monitor, ASKED)
    await settled(monitor)
    assert sample(registry, "responses_scored_total") == 2
    assert sample(registry, "tokens_scored_total") == 4
    assert sample(registry, "token_z_count", trait="paternalism") == 4


@pytest.mark.parametrize("error", [None, RuntimeError("client left")])
async def test_the_ledger_is_empty_afterwards(monitor: Monitor, error: Exception | None) -> None:
    app = App(monitor, choices(0))
    app.error = error
    if error is None:
        await call(app, monitor, ASKED)
    else:
        with pytest.raises(RuntimeError):
            await call(app, monitor, ASKED)
    await settled(monitor)


async def test_requests_at_once_do_not_see_each_others_calls(monitor: Monitor) -> None:
    answers = await asyncio.gather(
        *(call(App(monitor, choices(*range(n)), n=n), monitor, ASKED) for n in (1, 2, 3, 1, 2, 3))
    )
    for n, answer in zip((1, 2, 3, 1, 2, 3), answers, strict=True):
        told = [choice["traits"]["paternalism"]["tokens"] for choice in answer.json["choices"]]
        assert told == [[TOKENS[k][0] / 2, TOKENS[k][1] / 2, None] for k in range(n)]
