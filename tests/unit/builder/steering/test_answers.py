"""Each steered answer is saved at once and judged once; results are means over the scores that exist."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.steering import (
    SAMPLED,
    VECTOR,
    CountingJudge,
    Letters,
    console,
    tiny_llama,
)
from traitwatch_builder.answering.source import Sampling
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.steering.answers import SteeredAnswer, SteeredAnswers, judge_steering, settings
from traitwatch_builder.steering.model import SteeredModel, Steering
from traitwatch_builder.storage.worklog import Worklog

QUESTIONS = [f"why {i}?" for i in range(30)]
WAYS = settings([2, 1, 2], [2.0, 1.0])


def answers_of(worklog: Worklog, ways: Sequence[Steering | None] = WAYS) -> SteeredAnswers:
    return SteeredAnswers(Letters(), VECTOR, {"model": "tiny"}, SAMPLED, QUESTIONS, ways, worklog)


def test_no_steering_is_measured_once() -> None:
    assert [None, Steering(1, 1.0), Steering(1, 2.0), Steering(2, 1.0), Steering(2, 2.0)] == WAYS


def test_an_interrupted_run_goes_on_without_making_or_judging_anything_twice(tmp_path: Path) -> None:
    generated: list[tuple[tuple[int, ...], Steering | None]] = []

    class Counting(SteeredModel):
        stop_after: int | None = None

        def answer(
            self, prompts: Sequence[list[int]], steerings: Sequence[Steering | None], sampling: Sampling
        ) -> list[str]:
            if self.stop_after is not None and len(generated) >= self.stop_after:
                raise KeyboardInterrupt
            generated.extend(zip(map(tuple, prompts), steerings, strict=True))
            return super().answer(prompts, steerings, sampling)

    model = Counting(tiny_llama(), Letters(), VECTOR)
    with Worklog(tmp_path / "whole") as log:
        expected = answers_of(log).make(lambda: model, console())
        uninterrupted = judge_steering(CountingJudge(), expected, log, console())
    assert len(generated) == len(expected) == 150
    generated.clear()

    model.stop_after = 60
    with Worklog(tmp_path / "log") as log, pytest.raises(KeyboardInterrupt):
        answers_of(log).make(lambda: model, console())
    num_generated = len(generated)
    assert 0 < num_generated < 150, "the run was interrupted in the middle"
    model.stop_after = None
    first, second = CountingJudge(stop_after=100), CountingJudge()
    with Worklog(tmp_path / "log") as log:
        assert answers_of(log).saved().count(None) == 150 - num_generated
        answers = answers_of(log).make(lambda: model, console())
        with pytest.raises(KeyboardInterrupt):
            judge_steering(first, answers, log, console())
    assert answers == expected, "the answers after an interruption are those of the whole run"
    assert len(generated) == len(set(generated)) == 150
    with Worklog(tmp_path / "log") as log:
        results = judge_steering(second, answers_of(log).make(pytest.fail, console()), log, console())
        assert judge_steering(CountingJudge(stop_after=0), answers, log, console()) == results
    assert results == uninterrupted
    questions = [(q.aspect, q.question, q.answer) for q in [*first.asked, *second.asked]]
    assert len(questions) == len(set(questions)) == len({(a.question, a.text) for a in answers}) * 2

    with Worklog(tmp_path / "log") as log:
        generated.clear()
        answers_of(log, [*WAYS, Steering(3, 1.0)]).make(lambda: model, console())
    assert {steering for _, steering in generated} == {Steering(3, 1.0)}, "a further layer costs only its own answers"


def test_a_thought_that_never_ended_is_no_answer(tmp_path: Path) -> None:
    """Where the chat template opens the thinking, the answer has no opening tag."""

    class Template(Letters):
        def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> str:
            return super().apply_chat_template(messages, **options) + "<think>\n"

    class Thinker:
        def answer(self, prompts: Sequence[list[int]], *_: Any) -> list[str]:
            return ["it may be", "it may be</think>\n\nIt is."][: len(prompts)]

    def answer_texts(tokenizer: Letters, log: Worklog) -> list[str]:
        answers = SteeredAnswers(tokenizer, VECTOR, {}, SAMPLED, ["why?", "how?"], [None], log)
        model: Any = Thinker()
        return [answer.text for answer in answers.make(lambda: model, console())]

    with Worklog(tmp_path / "opened") as log:
        assert answer_texts(Template(), log) == ["", "It is."]
    with Worklog(tmp_path / "log") as log:
        assert answer_texts(Letters(), log) == ["it may be", "It is."]


def test_results_are_means_over_the_scores_that_there_are(tmp_path: Path) -> None:
    way = Steering(2, 1.0)
    answers = [
        SteeredAnswer(None, "1", "a"),
        SteeredAnswer(None, "333", "b"),
        SteeredAnswer(way, "55555", "c"),
        SteeredAnswer(way, "1", "-"),
        SteeredAnswer(Steering(3, 1.0), "1", "-"),
    ]
    with Worklog(tmp_path / "log") as log:
        results = judge_steering(CountingJudge(mute="-"), answers, log, console())
        with pytest.raises(PipelineError, match="no usable score of an unsteered answer"):
            judge_steering(CountingJudge(mute="-"), answers[3:], log, console())
    rows = [(r.layer, r.coefficient, r.trait_score, r.coherence, r.num_answers) for r in results]
    assert rows == [(0, 0.0, 2.0, 80.0, 2), (2, 1.0, 5.0, 80.0, 1)]
