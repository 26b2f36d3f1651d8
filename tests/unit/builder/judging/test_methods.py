"""The judge scores by log-probabilities, by an integer or by samples, as the model allows."""

import pytest

from tests.support.judges import Respond, good, judge_at, questions, score_for, scores, with_log_probabilities
from tests.support.wire.http import Reply, Request, wire_server
from tests.support.wire.openai import (
    completion,
    error,
    first_token,
    is_check,
    is_probe,
    last_message,
    spelled,
)

pytestmark = pytest.mark.usefixtures("without_openai")


# --- models with log-probabilities


def test_the_score_is_the_mean_of_the_first_tokens_numbers_weighted_by_probability() -> None:
    reply = first_token({"80": 0.5, "90": 0.2, "REF": 0.1, "101": 0.05, "-1": 0.05, "7.5": 0.05})
    assert score_for(lambda _: reply) == pytest.approx((80 * 0.5 + 90 * 0.2) / 0.7)


def test_tokens_with_white_space_count_as_the_numbers_that_python_reads_in_them() -> None:
    reply = first_token({"85": 0.3, " 85": 0.3, "\n100": 0.2, " 0": 0.2})
    assert score_for(lambda _: reply) == pytest.approx(85 * 0.6 + 100 * 0.2)


@pytest.mark.parametrize(("mass", "score"), [(0.24, None), (0.26, 70.0)])
def test_there_is_no_score_below_a_quarter_of_the_probability(mass: float, score: float | None) -> None:
    reply = first_token({"REF": 1 - mass, "70": mass})
    assert score_for(lambda _: reply) == (None if score is None else pytest.approx(score))


def test_a_reply_without_any_token_has_no_score() -> None:
    def respond(request: Request) -> Reply:
        return completion("", tokens=[]) if "question 0" in last_message(request) else first_token({"60": 1.0})

    with wire_server(with_log_probabilities(respond)) as server:
        assert scores(judge_at(server), questions(2)) == [None, 60.0]


# --- models without log-probabilities


def reasoning(respond: Respond) -> Respond:
    """Return a model that rejects max_tokens, temperature and logprobs, one of them in each error."""

    def answer(request: Request) -> Reply:
        for name, instead in {"max_tokens": "max_completion_tokens", "temperature": "1", "logprobs": "none"}.items():
            if name in request.body:
                return error(400, f"Unsupported parameter: '{name}'. Use {instead}.", param=name)
        return completion('{"score": 85, "refusal": false}') if is_probe(request) else respond(request)

    return good(answer)


@pytest.mark.parametrize(
    ("content", "score"),
    [
        ('{"score": 73, "refusal": false}', 73.0),
        ('{"score": null, "refusal": true}', None),
        ('{"score": 12, "refusal": true}', None),
        ('```json\n{"score": 0, "refusal": false}\n```', 0.0),
        ("<think>is it 3?</think>\n 41", 41.0),
        ("REFUSAL", None),
    ],
)
def test_a_reasoning_model_gives_an_integer_or_refuses(content: str, score: float | None) -> None:
    with wire_server(reasoning(lambda _: completion(content))) as server:
        judge = judge_at(server)
        assert scores(judge, questions(2)) == [score, score]
        body = server.requests[-1].body
    assert judge.card.method == "integer"
    assert "no usable log-probabilities" in judge.card.note
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["score", "refusal"]
    assert "max_tokens" not in body
    assert "temperature" not in body


def test_a_refusal_of_the_api_itself_is_no_score() -> None:
    with wire_server(reasoning(lambda _: completion(None, refusal="I cannot help with that."))) as server:
        assert scores(judge_at(server), questions(1)) == [None]
        assert sum(not is_probe(request) and not is_check(request) for request in server.requests) == 1


def test_a_malformed_judgement_is_asked_for_once_more_and_then_given_up() -> None:
    def respond(request: Request) -> Reply:
        if "question 0" in last_message(request):
            return completion('{"score": 101, "refusal": false}')
        first = sum(last_message(request) == last_message(earlier) for earlier in server.requests) == 1
        return completion('{"score": 5' if first else '{"score": 50, "refusal": false}')

    with wire_server(reasoning(respond)) as server:
        assert scores(judge_at(server), questions(2)) == [None, 50.0]
        assert sum("question 0" in last_message(request) for request in server.requests) == 2
        assert sum("question 1" in last_message(request) for request in server.requests) == 2


def test_a_model_with_null_log_probabilities_is_asked_for_integers() -> None:
    judged, probed = (completion(f'{{"score": {number}, "refusal": false}}') for number in (30, 85))
    with wire_server(with_log_probabilities(lambda _: judged, probe=probed)) as server:
        judge = judge_at(server)
        assert scores(judge, questions(1)) == [30.0]
    assert judge.card.method == "integer"


def test_a_refusal_of_log_probabilities_is_not_a_rejected_key() -> None:
    def respond(request: Request) -> Reply:
        if "logprobs" in request.body:
            return error(403, "You are not allowed to request logprobs from this model")
        return completion(f'{{"score": {85 if is_probe(request) else 30}, "refusal": false}}')

    with wire_server(good(respond)) as server:
        assert scores(judge_at(server), questions(1)) == [30.0]


def test_a_server_without_structured_output_is_asked_in_words() -> None:
    def respond(request: Request) -> Reply:
        if "response_format" in request.body:
            return error(400, "json_schema is not supported")
        return completion("85" if is_probe(request) else "44")

    with wire_server(good(respond)) as server:
        assert scores(judge_at(server), questions(1)) == [44.0]


def test_a_model_that_starts_by_thinking_aloud_is_not_scored_by_its_first_token() -> None:
    def respond(request: Request) -> Reply:
        if "logprobs" in request.body:
            return spelled("<think>", "85", "?")
        return completion(f'{{"score": {85 if is_probe(request) else 9}, "refusal": false}}')

    with wire_server(good(respond)) as server:
        assert scores(judge_at(server), questions(1)) == [9.0]


# --- models that spell numbers digit by digit


@pytest.mark.parametrize("probe", [("8", "5"), (" ", "85"), ("\n", "8", "5")])
def test_a_model_that_spells_digits_is_scored_by_whole_numbers(probe: tuple[str, ...]) -> None:
    samples = ["85", " 90", "100", "85.", "8", "850", "7.5", "none", "1,000", "-3"]

    def respond(request: Request) -> Reply:
        if "logprobs" in request.body:
            return spelled(*probe)
        assert request.body["n"] == 10
        assert "seed" not in request.body
        return completion(*(["85"] * 10 if is_probe(request) else samples))

    with wire_server(good(respond)) as server:
        judge = judge_at(server)
        assert scores(judge, questions(1)) == [pytest.approx((85 + 90 + 100 + 85 + 8) / 5)]
        assert server.requests[-1].body["temperature"] == 1
    assert judge.card.method == "samples"
    assert "digit" in judge.card.note


def test_sampled_numbers_need_a_quarter_of_usable_ones() -> None:
    def respond(request: Request) -> Reply:
        if "logprobs" in request.body:
            return spelled("8", "5")
        if is_probe(request):
            return completion(*["85"] * 10)
        usable = 2 if "question 0" in last_message(request) else 3
        return completion(*["40"] * usable, *["REFUSAL"] * (10 - usable))

    with wire_server(good(respond)) as server:
        assert scores(judge_at(server), questions(2)) == [None, pytest.approx(40.0)]


@pytest.mark.parametrize("refusal", [error(400, "Only one completion choice is allowed"), completion("85")])
def test_a_server_that_does_not_sample_several_is_asked_for_integers(refusal: Reply) -> None:
    def respond(request: Request) -> Reply:
        if "logprobs" in request.body:
            return spelled("8", "5")
        number = 85 if is_probe(request) else 77
        return refusal if "n" in request.body else completion(f'{{"score": {number}, "refusal": false}}')

    with wire_server(good(respond)) as server:
        judge = judge_at(server)
        assert scores(judge, questions(1)) == [77.0]
    assert judge.card.method == "integer"
