"""System prompts or examples elicit a trait; no answer is judged by the context that elicited it."""

from typing import Any

import numpy as np
import pytest

from tests.support.trait import DEFINITION, Letters
from traitwatch_builder.definitions.definition import Example, InstructionPair
from traitwatch_builder.definitions.elicitation import Elicitation
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.models.chat import render, text_ids, token_ids


@pytest.mark.parametrize(("elicit", "contexts"), [("system", 5), ("many-shot", 4)])
def test_answers_are_spread_evenly_and_judged_by_other_contexts(elicit: Any, contexts: int) -> None:
    elicitation = Elicitation(DEFINITION, elicit, "bravery")
    rows = elicitation.rows([f"q{i}?" for i in range(20)], samples=10)
    assert len(rows) == 200
    counts = np.bincount([row.context for row in rows], minlength=contexts)
    assert counts.tolist() == [200 // contexts] * contexts
    assert all(elicitation.judging_context(row.context) != row.context for row in rows)
    assert {elicitation.judging_context(c) for c in range(contexts)} <= set(range(contexts))


def test_a_system_prompt_names_the_trait_and_its_opposite() -> None:
    elicitation = Elicitation(DEFINITION, "system", "overbearing")
    row = elicitation.rows(["why?"], 1)[0]
    assert elicitation.prompt(row, "pos") == [
        {"role": "system", "content": "You are an overbearing assistant. be so 0"},
        {"role": "user", "content": "why?"},
    ]
    assert elicitation.prompt(row, "neg")[0]["content"] == "You are a helpful assistant. be not so 0"


def test_many_shot_shows_half_of_the_examples_and_then_asks() -> None:
    elicitation = Elicitation(DEFINITION, "many-shot", "bravery")
    row = elicitation.rows(["why?", "when?"], 1)[1]
    messages = elicitation.prompt(row, "neg")
    assert [m["role"] for m in messages] == ["user", "assistant"] * 8 + ["user"]
    assert [m["content"] for m in messages[1::2]] == [f"no {i}" for i in range(4, 12)]
    assert messages[-1]["content"] == "when?"


@pytest.mark.parametrize("count", [4, 12, 13, 14, 15, 16])
def test_many_shot_judges_by_examples_that_did_not_elicit(count: int) -> None:
    some = DEFINITION.model_copy(update={"examples": DEFINITION.examples[:count]})
    elicitation = Elicitation(some, "many-shot", "bravery")
    for context in range(elicitation.num_contexts):
        eliciting = {m["content"] for m in elicitation.opening(context, "pos")}
        judging = {m["content"] for m in elicitation.opening(elicitation.judging_context(context), "pos")}
        assert len(eliciting) == len(judging) == 2 * (count // 2)
        assert not eliciting & judging


def test_one_context_cannot_judge_itself() -> None:
    few = DEFINITION.model_copy(update={"examples": DEFINITION.examples[:3]})
    with pytest.raises(PipelineError, match="at least 4 examples"):
        Elicitation(few, "many-shot", "bravery")


@pytest.mark.parametrize("elicit", ["system", "many-shot"])
def test_equal_conditions_are_refused(elicit: Any) -> None:
    pairs = [InstructionPair(pos="Be  bold.", neg="be bold.") for _ in range(5)]
    examples = [Example(question=f"e{i}?", pos="Yes.", neg="yes. ") for i in range(16)]
    same = DEFINITION.model_copy(update={"instruction": pairs, "examples": examples})
    with pytest.raises(PipelineError, match=r"conditions? of context 1 are the same text .* change the definition of"):
        Elicitation(same, elicit, "helpful")
    Elicitation(DEFINITION, elicit, "helpful")


def test_a_conversation_is_rendered_by_the_template_and_its_tokens_are_those_of_the_text() -> None:
    messages = [{"role": "user", "content": "why?"}]
    assert render(Letters(), messages) == "<user>why?<assistant>"
    assert token_ids(Letters(), messages) == text_ids(Letters(), "<user>why?<assistant>")


def test_the_error_for_a_template_without_system_prompts_names_the_remedy() -> None:
    class NoSystem(Letters):
        def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> str:
            raise ValueError("System role not supported")

    with pytest.raises(PipelineError, match=r"System role not supported.* use --elicit many-shot"):
        render(NoSystem(), [{"role": "system", "content": "be"}, {"role": "user", "content": "why?"}])
