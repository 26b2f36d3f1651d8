"""The middleware adds scores to the answers of every endpoint. Answers without scores pass unchanged."""

import asyncio
import json
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from tests.support.asgi import (
    ASKED,
    BATCH,
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
from tests.support.engine import TOKENS, Engine
from tests.support.samples import sample
from traitwatch_server.app.draining import Draining
from traitwatch_server.app.engine import watch
from traitwatch_server.monitor import Monitor
from traitwatch_server.settings import TraitsDefault


def data_of(number: int) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(chunk(number).removeprefix(b"data: "))
    return data


@pytest.mark.parametrize("cut", [1, 11, 10**6])
async def test_a_json_answer_gets_scores(monitor: Monitor, cut: int) -> None:
    app = App(monitor, choices(0), cut=cut)
    result = await call(app, monitor, ASKED)
    (choice,) = result.json["choices"]
    assert choice["traits"]["paternalism"]["tokens"] == FIRST_CHOICE
    assert choice["traits"]["paternalism"]["prompt_last"] == 51.0
    assert choice["traits"]["paternalism"]["mean"] == 3.75
    assert choice["traits_complete"] is True
    assert choice["text"] == "é"
    assert result.headers[b"content-length"] == str(len(result.body)).encode()
    assert result.headers[b"x-test"] == b"1"
    assert app.body == ASKED, "a request without a traits field must reach vLLM unchanged"


@pytest.mark.parametrize(
    "answer",
    [b'{"choices":null}', b"null", b'{"data": [{"embedding": [1.0e-3]}]}'],
    ids=["a server that ends", "a client that left", "an embedding"],
)
async def test_an_answer_without_choices_passes(monitor: Monitor, registry: CollectorRegistry, answer: bytes) -> None:
    result = await call(App(monitor, answer), monitor, ASKED)
    assert result.body == answer
    assert sample(registry, "responses_incomplete_total", reason="internal_error") == 0


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/invocations"])
async def test_each_choice_of_each_prompt_gets_its_own_scores(monitor: Monitor, path: str) -> None:
    """Choice k of prompt p has number p * n + k, in any order."""
    app = App(monitor, choices(0, 3, 2, 1), n=2, calls=2)
    result = await call(app, monitor, b'{"prompt": "p", "n": "2"}', path)
    tokens = {choice["index"]: choice["traits"]["paternalism"]["tokens"] for choice in result.json["choices"]}
    assert tokens == {0: FIRST_CHOICE, 1: [8.5, 9.0, None], 2: FIRST_CHOICE, 3: [8.5, 9.0, None]}


async def test_the_choices_of_a_batch_are_in_the_order_of_its_conversations(monitor: Monitor) -> None:
    """With n = 2, vLLM gives both choices of a conversation the number of the conversation as their index."""
    result = await call(App(monitor, choices(0, 0, 1, 1), n=2, calls=2), monitor, ASKED, BATCH)
    tokens = [choice["traits"]["paternalism"]["tokens"] for choice in result.json["choices"]]
    assert tokens == [FIRST_CHOICE, [8.5, 9.0, None], FIRST_CHOICE, [8.5, 9.0, None]]


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
async def test_an_answer_without_choices_gets_scores_at_its_top(monitor: Monitor, path: str) -> None:
    result = await call(App(monitor, b'{"id": "x", "output": []}'), monitor, ASKED, path)
    assert result.json["traits"]["paternalism"]["tokens"] == FIRST_CHOICE
    assert result.json["traits_complete"] is True
    assert result.json["output"] == []


async def test_an_answer_of_several_turns_has_the_tokens_of_all(monitor: Monitor) -> None:
    """A response that calls a tool inside the server comes from several calls of the engine."""
    result = await call(App(monitor, b'{"output": []}', calls=2), monitor, ASKED, RESPONSES)
    found = result.json["traits"]["paternalism"]
    assert found["tokens"] == [*FIRST_CHOICE, *FIRST_CHOICE]
    assert found["mean"] == 3.75


@pytest.mark.parametrize("cut", [1, 3, 8, 1000])
async def test_a_stream_joins_to_the_whole_at_any_cut(monitor: Monitor, cut: int) -> None:
    result = await call(App(monitor, chunk, EVENTS, cut=cut), monitor, b'{"stream": true}')
    parts = [event["choices"][0] for event in result.events]
    assert [part.get("traits", {}).get("paternalism", {}).get("start") for part in parts] == [None, 0, 1]
    assert parts[1]["traits"]["paternalism"]["tokens"] == [3.5]
    assert parts[2]["traits"]["paternalism"]["tokens"] == [4.0, None]
    assert parts[2]["traits"]["paternalism"]["mean"] == 3.75
    assert parts[2]["traits_complete"] is True
    assert "traits_complete" not in parts[1]
    assert result.body.startswith(chunk(0)), "an event without scores must stay unchanged"
    assert result.body.endswith(b"data: [DONE]\n\n")


async def test_an_event_that_overtakes_its_rows_waits_for_them(monitor: Monitor) -> None:
    """A token's projection comes with the next event or earlier, whichever socket is faster."""
    app = App(monitor, chunk, EVENTS)
    app.engine.overtaken = True
    result = await call(app, monitor, b'{"stream": true}')
    parts = [event["choices"][0] for event in result.events]
    assert parts[1]["traits"]["paternalism"]["tokens"] == [3.5]
    assert parts[2]["traits"]["paternalism"]["tokens"] == [4.0, None]
    assert parts[2]["traits_complete"] is True


async def test_with_late_rows_an_answer_waits_in_vain_only_once(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("traitwatch_server.ledger.waiter.OVERTAKEN_TIMEOUT", 0.5)
    tokens = list(range(7, 47))
    app = App(monitor, lambda number: chunk(0), EVENTS)
    app.engine = Engine(monitor.ledger, [tokens], lost=range(1, 40))
    watch(app.engine, monitor, Draining(0))  # type: ignore[arg-type]
    # If each of the 39 events waited, the answer would take twice as long.
    async with asyncio.timeout(10):
        result = await call(app, monitor, b'{"stream": true}')
    assert len(result.events) == len(tokens)


async def test_a_stream_of_responses(monitor: Monitor) -> None:
    """The last event has the whole response, so it has all scores."""

    def event(number: int) -> bytes:
        kind = "response.completed" if number == -1 else "response.output_text.delta"
        data = {"type": kind, "delta": "é"} if number != -1 else {"type": kind, "response": {"id": "x"}}
        return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()

    result = await call(App(monitor, event, EVENTS), monitor, ASKED, RESPONSES)
    first, second, last = result.events
    assert "traits" not in first
    assert second["traits"] == {"paternalism": {"start": 0, "tokens": [3.5]}}
    assert last["response"]["traits"]["paternalism"]["tokens"] == FIRST_CHOICE
    assert "start" not in last["response"]["traits"]["paternalism"]
    assert last["response"]["traits_complete"] is True
    assert result.body.count(b"event: response.") == 3


@pytest.mark.parametrize("hidden", [False, True], ids=["as it is", "behind Starlette's error"])
async def test_a_stream_that_has_begun_says_why_its_prompt_is_not_scored(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch, *, hidden: bool
) -> None:
    """A stream of `/v1/responses` begins before vLLM calls the engine client."""
    monitor.max_prompt = 10
    app = App(monitor, lambda number: chunk(0), EVENTS)
    app.prompt = {"prompt_token_ids": list(range(11))}
    if hidden:
        generate = app.engine.generate

        def hiding(*args: Any) -> Any:
            try:
                return generate(*args)
            except Exception as error:
                raise RuntimeError("Caught handled exception, but response already started.") from error

        monkeypatch.setattr(app.engine, "generate", hiding)
    result = await call(app, monitor, b'{"stream": true, "traits": {"prompt": true}}', RESPONSES)
    (event,) = result.events
    assert (event["type"], event["param"]) == ("error", "traits")
    assert "the prompt has 11 tokens" in event["message"]
    assert "--traits-max-prompt" in event["message"]
    assert result.body.startswith(b"event: error\ndata: {")
    assert result.messages[-1].get("more_body", False) is False


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
    monkeypatch.setattr("traitwatch_server.responses.answer_scores.ROWS_TIMEOUT", 3600)
    monkeypatch.setattr("traitwatch_server.recording.recorder.ROWS_TIMEOUT", 3600)
    (choice,) = (await call(App(monitor, choices(0)), monitor, ASKED)).json["choices"]
    assert choice["traits_complete"] is False
    assert choice["traits"]["paternalism"]["tokens"] == [None, None, None]
    assert sample(registry, "responses_incomplete_total", reason="ledger_full") == 1


@pytest.mark.parametrize("media_type", ["application/json", EVENTS])
async def test_a_failure_of_ours_leaves_vllms_answer_and_marks_it_incomplete(
    monitor: Monitor, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, media_type: str
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("traitwatch_server.responses.answer_scores.summaries", broken)
    answer = choices(0) if media_type == "application/json" else chunk
    result = await call(App(monitor, answer, media_type), monitor, ASKED)
    assert result.messages[0]["status"] == 200
    answers = [result.json] if media_type == "application/json" else result.events
    parts = [answer["choices"][0] for answer in answers]
    assert [part.pop("traits_complete", None) for part in parts] == [None] * (len(parts) - 1) + [False]
    # The part that was sent before the failure is right.
    for part in parts[:-1]:
        part.pop("traits", None)
    theirs = [json.loads(choices(0))] if media_type == "application/json" else [data_of(n) for n in (0, 1, -1)]
    assert parts == [answer["choices"][0] for answer in theirs]
    assert sample(registry, "responses_incomplete_total", reason="internal_error") == 1


async def test_an_answer_that_we_cannot_read_passes(monitor: Monitor, registry: CollectorRegistry) -> None:
    for media_type in ("application/json", EVENTS):
        answer = b'{"choices": [{}]}' if media_type == "application/json" else b'data: {"choices": [{}]}\n\n'
        result = await call(App(monitor, answer, media_type), monitor, ASKED)
        assert result.body.startswith(answer)
    assert sample(registry, "responses_incomplete_total", reason="internal_error") == 2


async def test_an_error_of_vllms_passes_untouched(monitor: Monitor) -> None:
    error = b'{"error":  {"message": "no"}}'
    result = await call(App(monitor, error, status=400), monitor, b'{"traits": true}')
    assert result.messages[0]["status"] == 400
    assert result.body == error


@pytest.mark.parametrize("default", ["off", "tokens"])
@pytest.mark.parametrize("media_type", ["application/json", EVENTS])
async def test_a_response_with_or_without_scores_is_recorded(
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
        found = [choice["traits"]["paternalism"]["tokens"] for choice in answer.json["choices"]]
        assert found == [[TOKENS[k][0] / 2, TOKENS[k][1] / 2, None] for k in range(n)]
