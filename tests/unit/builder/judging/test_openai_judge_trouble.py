"""The OpenAI judge loses no score to servers that fail, are slow or are busy, and names the fault."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.judges import PROMPT, Respond, good, judge_at, questions, scores, with_log_probabilities
from tests.support.trait import nothing
from tests.support.waiting import until
from tests.support.wire.http import Reply, Request, wire_server
from tests.support.wire.openai import error, first_token, is_check, is_probe, last_message, spelled
from traitwatch_builder.clients import chat_completions
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.judging import openai_judge
from traitwatch_builder.judging.openai_judge import OpenAIJudge

pytestmark = pytest.mark.usefixtures("without_openai")


# --- trouble that passes


def failing_first(trouble: Reply) -> Respond:
    """Return a server that answers the first request for each prompt with `trouble`."""
    seen: set[str] = set()

    def respond(request: Request) -> Reply:
        if last_message(request) in seen:
            return spelled("85") if is_probe(request) else first_token({"60": 1.0})
        seen.add(last_message(request))
        return trouble

    return good(respond)


@pytest.mark.parametrize(
    "trouble",
    [
        error(429, "slow down", retry_after="0.01"),
        error(500, "oops", retry_after="0.01"),
        error(503, "loading", retry_after="0.01"),
        Reply(b"{not json"),
        Reply(b"<html>gateway</html>", headers={"content-type": "text/html"}),
        Reply({"error": {"message": "upstream"}}),
    ],
)
def test_trouble_that_passes_costs_no_score(trouble: Reply) -> None:
    with wire_server(failing_first(trouble)) as server:
        assert scores(judge_at(server), questions(3)) == [60.0] * 3


def test_a_dropped_connection_is_tried_again() -> None:
    with wire_server(failing_first(Reply(drop=True))) as server:
        assert scores(judge_at(server), questions(2)) == [60.0] * 2


def test_an_answer_that_does_not_come_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_judge, "_SECONDS", 0.2)
    with wire_server(failing_first(first_token({"1": 1.0}, delay=20.0))) as server:
        assert scores(judge_at(server), questions(1)) == [60.0]


def test_retry_after_is_waited_for() -> None:
    with wire_server(failing_first(error(429, "slow down", retry_after="1.2"))) as server:
        started = time.monotonic()
        scores(judge_at(server), questions(1))
    # Two waits: of the probe and of the score. The SDK's own first backoff is half a second at most.
    assert time.monotonic() - started >= 2.4


def test_a_retry_after_that_is_longer_than_the_sdk_waits_is_waited_for_too(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(chat_completions, "_sleep", wait)
    with wire_server(failing_first(error(429, "slow down", retry_after="300"))) as server:
        assert scores(judge_at(server), questions(1)) == [60.0]
    assert waits == [300.0, 300.0]


# --- trouble that stays


def failure(judge: OpenAIJudge, count: int = 1) -> str:
    with pytest.raises(PipelineError) as caught:
        scores(judge, questions(count))
    return str(caught.value)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (error(401, "Incorrect API key provided: x.", code="invalid_api_key"), "rejected the API key: Incorrect"),
        (error(403, "Country not supported."), "does not let this key use 'm'"),
        (error(404, "The model `m` does not exist."), "has no model 'm': The model"),
    ],
)
def test_a_wrong_key_or_model_ends_the_run_at_once(reply: Reply, message: str) -> None:
    with wire_server(lambda _: reply) as server:
        assert message in failure(judge_at(server))
        # The first request asks whether this is a Traitwatch server.
        assert [request.path for request in server.requests] == ["/v1/traits", "/v1/chat/completions"]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (error(500, "oops", retry_after="0.01"), "failed with status 500, though asked several times: oops"),
        (error(429, "slow down", retry_after="0.01"), "its limit is reached (429): slow down"),
        (error(429, "no money", code="insufficient_quota", retry_after="0.01"), "quota is used up"),
        (error(429, "tomorrow", retry_after="7200"), "come back in 120 minutes"),
        (Reply(b"<html>", headers={"content-type": "text/html"}), "not with chat completions (<html>)"),
    ],
)
def test_trouble_that_stays_loses_no_score(reply: Reply, message: str) -> None:
    answered = threading.Event()

    def respond(request: Request) -> Reply:
        if "question 0" in last_message(request):
            return first_token({"60": 1.0})
        answered.wait(60)
        return reply

    received = []
    with wire_server(with_log_probabilities(respond)) as server, pytest.raises(PipelineError) as caught:  # noqa: PT012
        for score in judge_at(server).score(questions(3), nothing):
            received.append(score)
            answered.set()
    assert [(score.index, score.value) for score in received] == [(0, 60.0)]
    assert message in str(caught.value)
    assert "saved, and the same command goes on" in str(caught.value)


def test_an_absent_server_is_reported_soon() -> None:
    with wire_server(lambda _: Reply()) as server:
        url = server.url
    started = time.monotonic()
    assert "cannot be reached" in failure(OpenAIJudge(PROMPT, base_url=url))
    assert time.monotonic() - started < 30


def test_without_a_key_openai_is_not_even_asked() -> None:
    with pytest.raises(PipelineError, match="set OPENAI_API_KEY"):
        OpenAIJudge(PROMPT)


def test_a_prompt_with_stray_braces_is_refused() -> None:
    with pytest.raises(PipelineError, match="must be doubled"):
        OpenAIJudge("{question} {answer} {x}", api_key="k")


def test_one_rejected_answer_has_no_score_and_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    def respond(request: Request) -> Reply:
        if "question 1" in last_message(request):
            return error(400, "The content filter says no.", code="content_filter")
        return first_token({"60": 1.0})

    with wire_server(with_log_probabilities(respond)) as server:
        assert scores(judge_at(server), questions(3)) == [60.0, None, 60.0]
    assert "rejected 1 of 3 requests" in caplog.text
    assert "The content filter says no." in caplog.text


def test_a_server_that_rejects_everything_ends_the_run_without_empty_scores() -> None:
    received = []
    with (
        wire_server(with_log_probabilities(lambda _: error(400, "unknown field"))) as server,
        pytest.raises(PipelineError) as caught,
    ):
        received.extend(judge_at(server).score(questions(40), nothing))
    assert received == []
    assert "rejected the request (400): unknown field" in str(caught.value)


# --- many at once


def test_no_more_requests_are_open_than_allowed_and_that_many_are() -> None:
    four = threading.Barrier(4, timeout=60)

    def respond(request: Request) -> Reply:
        four.wait()
        return first_token({"60": 1.0})

    with wire_server(with_log_probabilities(respond)) as server:
        scores(judge_at(server, max_concurrent=4), questions(12))
        assert server.most_at_once == 4


def test_scores_come_before_the_slowest_is_done() -> None:
    slow = threading.Event()

    def respond(request: Request) -> Reply:
        if "question 0" in last_message(request):
            slow.wait(60)
        return first_token({"60": 1.0})

    advanced: list[int] = []
    with wire_server(with_log_probabilities(respond)) as server:
        found = judge_at(server).score(questions(4), advanced.append)
        early = [next(found).index for _ in range(3)]
        assert sorted(early) == [1, 2, 3]
        assert advanced == [1, 1, 1]
        slow.set()
        assert [score.index for score in found] == [0]


def test_a_consumer_that_stops_early_ends_the_requests() -> None:
    slow = threading.Event()

    def respond(request: Request) -> Reply:
        if "question 0" not in last_message(request):
            slow.wait(60)
        return first_token({"60": 1.0})

    def consume(found: Iterator[Any]) -> None:
        for _ in found:
            raise KeyboardInterrupt

    before = threading.active_count()
    with wire_server(with_log_probabilities(respond)) as server:
        started = time.monotonic()
        found = judge_at(server, max_concurrent=3).score(questions(50), nothing)
        with pytest.raises(KeyboardInterrupt):
            consume(found)
        found.close()  # type: ignore[attr-defined]
        assert time.monotonic() - started < 30
        slow.set()
        until(lambda: server._open == 0, message=lambda: "requests stayed open")
        assert sum(not is_probe(request) and not is_check(request) for request in server.requests) <= 4
    until(lambda: threading.active_count() <= before, message=lambda: "a thread stayed")
