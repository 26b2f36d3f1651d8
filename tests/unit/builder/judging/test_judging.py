"""A judge scores each answer once, and the scores stand in the row of the answer."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.support.trait import QUIET
from traitwatch.card import JudgeCard
from traitwatch_builder.clients.usage import Usage
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.judging.judge import Question, Score
from traitwatch_builder.judging.judging import (
    JudgeOptions,
    check_useful,
    cost_estimate,
    judge_answers,
    judge_card,
    make_judge,
    pending,
    questions_of,
    usage_printed,
)
from traitwatch_builder.storage.answers import JudgedAnswer, read_answers, write_scores
from traitwatch_builder.storage.tables import read_table
from traitwatch_builder.storage.worklog import SavedValues, Worklog

OPTIONS = JudgeOptions("openai", "m")


class Lengths:
    """Scores each answer by its length, in reverse order; refuses `?`, and fails after `stop` scores."""

    card = JudgeCard(name="lengths")

    def __init__(self) -> None:
        self.asked: list[Question] = []
        self.stop = 10**6

    @property
    def usage(self) -> Usage:
        return Usage(calls=len(self.asked))

    def identity(self, question: Question) -> dict[str, Any]:
        return {"aspect": question.aspect, "answer": question.answer}

    def estimate(self, questions: Sequence[Question]) -> Usage:
        return Usage(calls=len(questions))

    def score(self, questions: Sequence[Question], advance: Callable[[int], None]) -> Iterator[Score]:
        for index in reversed(range(len(questions))):
            if self.stop == 0:
                raise PipelineError("the server is gone")
            self.stop -= 1
            question = questions[index]
            self.asked.append(question)
            value = None if question.answer == "?" else len(question.answer) + 50.0 * (question.aspect == "coherence")
            yield Score(index, value)


def rows(*answers: str) -> list[JudgedAnswer]:
    return [JudgedAnswer("q?", "p", answer, f"t_0_pos_{i}") for i, answer in enumerate(answers)]


def test_each_row_gets_its_scores_and_a_refusal_stays_empty(tmp_path: Path) -> None:
    with Worklog(tmp_path / "s.jsonl") as log:
        got = judge_answers(Lengths(), OPTIONS, rows("one", "?", "three"), log, QUIET, "")
    assert [(row.answer, row.trait, row.coherence) for row in got] == [
        ("one", 3.0, 53.0),
        ("?", None, None),
        ("three", 5.0, 55.0),
    ]


def test_the_card_of_a_probed_judge_is_saved_for_a_run_without_questions(tmp_path: Path) -> None:
    probed, idle = Lengths(), Lengths()
    probed.card = JudgeCard(name="lengths", method="integer", note="coarse")
    with Worklog(tmp_path / "s.jsonl") as log:
        judge_answers(probed, OPTIONS, rows("one"), log, QUIET, "")
        assert judge_card(probed, OPTIONS, log) == probed.card
        assert judge_card(idle, replace(OPTIONS, max_concurrent=3), log) == probed.card
        assert judge_card(idle, replace(OPTIONS, model="another"), log) == idle.card


def test_the_card_is_saved_before_the_first_score(tmp_path: Path) -> None:
    """A build may be killed when it has all scores, and before it does anything else."""
    path = tmp_path / "s.jsonl"
    judge = Lengths()
    judge.card = JudgeCard(name="lengths", method="integer", note="coarse")
    with Worklog(path) as log:
        judge_answers(judge, OPTIONS, rows("one"), log, QUIET, "")
        lines = path.read_bytes().splitlines(keepends=True)
    # The worklog of a killed build has the first of these lines.
    for number in range(1, len(lines) + 1):
        path.write_bytes(b"".join(lines[:number]))
        assert judge_card(Lengths(), OPTIONS, SavedValues(path)) == judge.card


def test_an_estimate_for_an_unprobed_judge_names_what_may_cost_more() -> None:
    judge, questions = Lengths(), questions_of(rows("one"))
    assert cost_estimate(judge, questions) == (
        "about 2 calls, 0 input tokens, 0 output tokens; the judge was not probed: a judge that reasons or gives "
        "samples writes more"
    )
    judge.card = JudgeCard(name="lengths", method="logprobs")
    assert cost_estimate(judge, questions) == "about 2 calls, 0 input tokens, 0 output tokens"


def test_the_usage_of_a_judge_that_failed_is_printed(tmp_path: Path) -> None:
    judge, output = Lengths(), io.StringIO()
    judge.stop = 3
    with (
        Worklog(tmp_path / "s.jsonl") as log,
        pytest.raises(PipelineError),
        usage_printed(judge, Console(file=output, width=200)),
    ):
        judge_answers(judge, OPTIONS, rows("one", "two"), log, QUIET, "")
    assert f"The judge took {judge.usage}." in output.getvalue()


def test_scores_go_into_the_file_and_its_other_columns_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('question,label,prompt,answer,question_id,evil\nq,"x, y",p,"a\n",evil_0_pos_0,7\n')
    (row,) = read_answers(path, "paternalism")
    write_scores(path, "paternalism", [replace(row, trait=90.0, coherence=10.0)])
    assert path.read_text().splitlines()[0] == (
        '"question","prompt","answer","question_id","paternalism","coherence","label","evil"'
    )
    assert read_answers(path, "paternalism") == [replace(row, trait=90.0, coherence=10.0)]
    assert read_answers(path, "evil")[0].trait == 7
    assert read_table(path, ["label"])["label"].tolist() == ["x, y"]


def test_the_scores_before_a_failure_of_the_judge_are_saved(tmp_path: Path) -> None:
    judge, answers = Lengths(), rows("one", "two2", "three", "?")
    judge.stop = 5
    with Worklog(tmp_path / "s.jsonl") as log, pytest.raises(PipelineError, match="the server is gone"):
        judge_answers(judge, OPTIONS, answers, log, QUIET, "")
    judge.stop = 99
    with Worklog(tmp_path / "s.jsonl") as log:
        assert len(pending(judge, questions_of(answers), log)) == 3
        got = judge_answers(judge, OPTIONS, answers, log, QUIET, "")
        assert [row.trait for row in got] == [3.0, 4.0, 5.0, None]
        assert len(judge.asked) == len(set(judge.asked)) == 8, "the judge scores each question once, refusals included"
        judge_answers(judge, OPTIONS, answers, log, QUIET, "")
        assert len(judge.asked) == 8


def test_the_same_answer_twice_is_judged_once(tmp_path: Path) -> None:
    judge = Lengths()
    with Worklog(tmp_path / "s.jsonl") as log:
        got = judge_answers(judge, OPTIONS, rows("same", "same"), log, QUIET, "")
    assert [row.trait for row in got] == [4.0, 4.0]
    assert len(judge.asked) == 2


@pytest.mark.parametrize(
    ("key", "arguments", "chosen"),
    [
        ("", (None, None, None), "likelihood"),
        ("sk-1", (None, None, None), "openai"),
        ("", (None, None, "http://localhost:1/v1"), "openai"),
        ("sk-1", ("likelihood", None, None), "likelihood"),
    ],
)
def test_the_default_judge_depends_on_the_key_and_the_url(
    monkeypatch: pytest.MonkeyPatch, key: str, arguments: Any, chosen: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    assert JudgeOptions.choose(*arguments, 50).name == chosen


def test_the_server_of_the_environment_is_a_part_of_the_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two judges of one name at two servers are two judges, and neither has the other's card."""
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    openais = JudgeOptions.choose("openai", None, None, 50)
    assert openais.base_url is None
    monkeypatch.setenv("OPENAI_BASE_URL", "http://one:1")
    one = JudgeOptions.choose("openai", None, None, 50)
    assert one == JudgeOptions.choose("openai", None, "http://one:1/v1/", 50)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://two:2")
    two = JudgeOptions.choose("openai", None, None, 50)
    probed, idle = Lengths(), Lengths()
    probed.card = JudgeCard(name="lengths", method="integer", note="coarse")
    with Worklog(tmp_path / "s.jsonl") as log:
        judge_answers(probed, one, rows("one"), log, QUIET, "")
        assert judge_card(idle, one, log) == probed.card
        for other in (openais, two, replace(one, name="likelihood")):
            assert judge_card(idle, other, log) == idle.card


def test_a_server_of_the_environment_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://one:1")
    assert JudgeOptions.choose("openai", None, None, 50).base_url == "http://one:1/v1"


def test_the_precision_of_the_likelihood_judge_is_a_part_of_it(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = Question("coherence", "q", "a")
    found = []
    for precision in ("float32", "bfloat16"):
        monkeypatch.setattr("traitwatch_builder.judging.judging.default_precision", lambda chosen=precision: chosen)
        judge = make_judge(JudgeOptions("likelihood"), "", None, tiny_model, QUIET)  # type: ignore[arg-type]
        found.append(judge.identity(question))
    assert found[0] != found[1]


def test_scores_of_another_scale_are_warned_of(tmp_path: Path) -> None:
    class Shares(Lengths):
        def score(self, questions: Sequence[Question], advance: Callable[[int], None]) -> Iterator[Score]:
            for index, question in enumerate(questions):
                yield Score(index, 1 / len(question.answer))

    output = io.StringIO()
    with Worklog(tmp_path / "s.jsonl") as log:
        judge_answers(Shares(), OPTIONS, rows("one", "two2", "three"), log, Console(file=output, width=200), "")
    assert "all scores lie between 0 and 1. Does the judge know that 100 is the highest score?" in output.getvalue()


def test_answers_without_one_trait_score_are_of_no_use() -> None:
    check_useful([], "a.csv")
    check_useful([replace(row, trait=0.0) for row in rows("a")] + rows("b"), "a.csv")
    with pytest.raises(PipelineError, match=r"^a.csv: 0 of 2 answers have a trait score"):
        check_useful(rows("a", "b"), "a.csv")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("openai", None, None), "set OPENAI_API_KEY"),
        ((None, "gpt", None), "set OPENAI_API_KEY"),
        (("likelihood", "gpt", None), "belong to --judge openai"),
    ],
)
def test_a_judge_that_cannot_work_is_refused(monkeypatch: pytest.MonkeyPatch, arguments: Any, message: str) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(PipelineError, match=message):
        JudgeOptions.choose(*arguments, 50)
