"""A judge that is of no use is refused before it judges anything, and the refusal quotes what the judge said."""

import json
from collections.abc import Callable

import pytest

from tests.support.judges import Respond, good, judge_at, questions, scores, with_log_probabilities
from tests.support.trait import nothing
from tests.support.wire.http import Reply, Request, wire_server
from tests.support.wire.openai import (
    CLEAR,
    JUMBLED,
    completion,
    error,
    first_token,
    is_check,
    is_probe,
    last_message,
    sane,
    spelled,
)
from traitwatch_builder.errors import PipelineError

pytestmark = pytest.mark.usefixtures("without_openai")


def refusal(respond: Respond) -> tuple[str, int]:
    """Return the error of a judge that refuses to work, and the number of its requests."""
    with wire_server(respond) as server:
        with pytest.raises(PipelineError) as caught:
            scores(judge_at(server), questions(300))
        return str(caught.value), len(server.requests)


def judgement(score: object) -> str:
    return json.dumps({"score": score, "refusal": False})


def saying(of: Callable[[Request], str]) -> Respond:
    """Return a model without log-probabilities that writes 85 where it is asked to, and else what `of` returns."""

    def respond(request: Request) -> Reply:
        return completion(judgement(85) if is_probe(request) else of(request))

    return respond


@pytest.mark.parametrize(
    ("reply", "quoted"),
    [
        (completion("I think so."), "'I think so.'"),
        (completion("Score: high"), "'Score: high'"),
        (completion("Score: 12"), "'Score: 12'"),
        (completion(judgement(0.85)), "0.85"),
        (completion("REFUSAL"), "'REFUSAL'"),
        (completion(None), "nothing"),
        (completion(None, reasoning="the user wants 85"), "only thinking ('the user wants 85')"),
        (completion("<think>hm", finish_reason="length"), "'<think>hm'"),
        (completion(None, reasoning_content="hm", finish_reason="length"), "('hm', cut off at the most tokens)"),
        (completion(None, tool_calls=[{"id": "1", "type": "function"}]), "a call of a tool"),
    ],
)
def test_a_model_that_does_not_write_the_number_it_is_asked_for_is_refused_at_once(reply: Reply, quoted: str) -> None:
    message, requests = refusal(lambda _: reply)
    assert "m at http://127.0.0.1" in message
    assert "asked for the number 85" in message
    assert quoted in message
    assert "another --judge-model" in message
    assert requests <= 3


def test_a_judge_that_only_thinks_is_told_to_stop_thinking() -> None:
    message, _ = refusal(lambda _: completion(None, reasoning="85"))
    assert "turn the model's thinking off" in message
    assert "--reasoning-parser" in message


@pytest.mark.parametrize(
    ("clear", "jumbled", "expected"),
    [
        ("85", "85", "a plain sentence a coherence of 85, and jumbled words 85: it says the same to everything"),
        ("0.95", "0.1", "a coherence of 0.95, and jumbled words 0.1: it seems to judge from 0 to 1 instead of"),
        ("9", "1", "it seems to judge from 0 to 10 instead of"),
        ("1", "0", "it seems to judge from 0 to 1 instead of"),
        ("no idea", "3", "asked for the coherence of a plain sentence, from 0 to 100, and wrote 'no idea'"),
        ("REFUSAL", "REFUSAL", "wrote a refusal"),
    ],
)
def test_a_judge_with_another_scale_or_always_the_same_score_is_refused(
    clear: str, jumbled: str, expected: str
) -> None:
    message, requests = refusal(saying(lambda request: clear if CLEAR in last_message(request) else jumbled))
    assert expected in message
    assert "--judge-model" in message
    assert requests <= 6


def test_a_judge_that_hardly_tells_sense_from_nonsense_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with wire_server(saying(lambda request: "50" if JUMBLED in last_message(request) else "60")) as server:
        assert scores(judge_at(server), questions(1)) == [60.0]
    assert "gave a plain sentence a coherence of 60, and jumbled words 50. Such scores are hardly of use" in caplog.text


def test_a_good_judge_is_asked_three_questions_and_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with wire_server(with_log_probabilities(lambda _: first_token({"60": 1.0}))) as server:
        scores(judge_at(server), questions(1))
        assert sum(is_probe(request) or is_check(request) for request in server.requests if request.body) == 3
    assert caplog.text == ""


# --- a judge that is the watched server itself


def traits(*listed: object) -> Respond:
    """Return a good judge whose server answers `/v1/traits` with a list."""

    def respond(request: Request) -> Reply:
        if request.path == "/v1/traits":
            return Reply({"object": "list", "data": list(listed)})
        if is_check(request):
            return sane(request)
        return spelled("85") if is_probe(request) else first_token({"60": 1.0})

    return respond


def test_a_judge_that_is_a_traitwatch_server_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    trait = {"id": "paternalism", "object": "trait", "layer": 20, "calibration": {"mean": 0.0, "std": 1.0}}
    with wire_server(traits(trait)) as server:
        assert scores(judge_at(server), questions(1)) == [60.0]
        assert f"{server.url}/v1 is a Traitwatch server" in caplog.text
    assert "count in its metrics, spikes and drift" in caplog.text


def test_a_traitwatch_server_is_named_before_it_fails_the_check(caplog: pytest.LogCaptureFixture) -> None:
    """By then it has counted the prompts of the check."""
    trait = {"id": "paternalism", "object": "trait", "layer": 20, "calibration": {"mean": 0.0, "std": 1.0}}
    watched = traits(trait)
    replies = saying(lambda _: "You are heading to the server")
    with wire_server(lambda request: watched(request) if request.path == "/v1/traits" else replies(request)) as server:
        with pytest.raises(PipelineError):
            scores(judge_at(server), questions(1))
        assert f"{server.url}/v1 is a Traitwatch server" in caplog.text


@pytest.mark.parametrize("respond", [traits(), traits({"id": "a"}), traits("a", None, 3), good(traits())])
def test_another_server_is_not_taken_for_one(respond: Respond, caplog: pytest.LogCaptureFixture) -> None:
    with wire_server(respond) as server:
        scores(judge_at(server), questions(1))
    assert "Traitwatch server" not in caplog.text


# --- replies that cannot be read in the middle


def with_number(respond: Respond) -> Respond:
    return good(lambda request: completion(judgement(85)) if is_probe(request) else respond(request))


def test_unreadable_replies_are_counted_and_one_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    def respond(request: Request) -> Reply:
        unclear = any(f"question {i}\n" in last_message(request) for i in (1, 3))
        return completion("It depends." if unclear else judgement(60))

    with wire_server(with_number(respond)) as server:
        assert scores(judge_at(server), questions(5)) == [60.0, None, 60.0, None, 60.0]
    assert "2 of 5 replies of m are neither a score nor a refusal" in caplog.text
    assert "for example, 'It depends.'" in caplog.text


@pytest.mark.parametrize("count", [3, 40])
def test_a_pass_without_one_readable_reply_fails_and_gives_no_empty_scores(count: int) -> None:
    received = []
    with (
        wire_server(with_number(lambda _: completion("It depends."))) as server,
        pytest.raises(PipelineError) as caught,
    ):
        received.extend(judge_at(server, max_concurrent=4).score(questions(count), nothing))
    assert received == []
    assert "asked for scores, and wrote 'It depends.'" in str(caught.value)
    assert len(server.requests) < 60


def test_the_first_token_of_prose_is_unreadable_and_that_of_a_refusal_is_not(caplog: pytest.LogCaptureFixture) -> None:
    def respond(request: Request) -> Reply:
        tokens = {"question 0": "I", "question 1": "REF", "question 2": "ref"}
        found = next((token for text, token in tokens.items() if text in last_message(request)), "60")
        return first_token({found: 0.9})

    with wire_server(with_log_probabilities(respond)) as server:
        assert scores(judge_at(server), questions(4)) == [None, None, None, 60.0]
    assert "1 of 4 replies" in caplog.text
    assert "'I' as the first token" in caplog.text


def test_a_short_pass_that_the_server_rejects_whole_fails_too() -> None:
    with (
        wire_server(with_log_probabilities(lambda _: error(400, "unknown field"))) as server,
        pytest.raises(PipelineError, match=r"rejected the request \(400\): unknown field"),
    ):
        scores(judge_at(server), questions(3))
