"""The OpenAI judge over the wire format: requests, their cost, and the data that a score depends on."""

import pytest

from tests.support.judges import PROMPT, judge_at, questions, scores, with_log_probabilities
from tests.support.wire.http import wire_server
from tests.support.wire.openai import (
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    error,
    first_token,
    is_probe,
)
from traitwatch_builder.judging.judge import Question
from traitwatch_builder.judging.openai_judge import OpenAIJudge

pytestmark = pytest.mark.usefixtures("without_openai")


# --- requests and their cost


def test_one_token_is_asked_for_with_the_filled_in_prompt_and_nothing_else() -> None:
    with wire_server(with_log_probabilities(lambda _: first_token({"1": 1.0}))) as server:
        judge = judge_at(server)
        scores(judge, [Question("trait", "why {so}?", "because {x}\ud800")])
        body = server.requests[-1].body
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Rate {0-100}.\nQ: why {so}?\nA: because {x}\ufffd"}],
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 20,
        "seed": 0,
    }
    assert (judge.card.name, judge.card.model, judge.card.method) == ("openai", "m", "logprobs")


def test_a_judge_probes_the_model_once_and_counts_the_probe_in_its_usage() -> None:
    with wire_server(with_log_probabilities(lambda _: first_token({"1": 1.0}))) as server:
        judge = judge_at(server)
        assert judge.card.method == ""
        scores(judge, questions(2))
        scores(judge, questions(3))
        assert sum(map(is_probe, server.requests)) == 1
    # The number 85, two scores that are known, and the five questions.
    assert (judge.usage.calls, judge.usage.input_tokens, judge.usage.output_tokens) == (
        8,
        8 * INPUT_TOKENS,
        8 * OUTPUT_TOKENS,
    )


def test_nothing_to_score_costs_nothing() -> None:
    with wire_server(lambda _: error(500, "never asked")) as server:
        assert scores(judge_at(server), []) == []
        assert server.requests == []


# --- what a score depends on


def test_a_coherence_score_does_not_depend_on_the_trait() -> None:
    one, other = (OpenAIJudge(f"{name} {{question}} {{answer}}", api_key="k") for name in ("a", "b"))
    coherence, trait = Question("coherence", "q", "a", 1), Question("trait", "q", "a", 1)
    assert one.identity(coherence) == other.identity(coherence)
    assert one.identity(trait) != other.identity(trait)
    assert one.identity(coherence) != OpenAIJudge(PROMPT, "another", api_key="k").identity(coherence)
    assert "base_url" not in one.identity(trait)


def test_a_score_depends_on_the_server_and_not_on_how_its_url_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    question = Question("trait", "q", "a")
    identity = OpenAIJudge(PROMPT, base_url="http://host:8000").identity(question)
    assert identity["base_url"] == "http://host:8000/v1"
    assert OpenAIJudge(PROMPT, base_url="http://host:8000/v1/").identity(question) == identity
    monkeypatch.setenv("OPENAI_BASE_URL", "http://host:8000/v1")
    assert OpenAIJudge(PROMPT).identity(question) == identity


def test_the_estimate_counts_every_prompt_and_asks_nobody() -> None:
    judge = OpenAIJudge(PROMPT, api_key="k")
    usage = judge.estimate([Question("trait", "q" * 400, "a" * 4000), Question("coherence", "q", "a")])
    assert usage.calls == 2
    assert usage.output_tokens == 2
    assert 1100 < usage.input_tokens < 1800
    assert judge.usage.calls == 0
