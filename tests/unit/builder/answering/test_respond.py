"""Each answer is generated once, saved at once, and written to the row of its conversation."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.trait import DEFINITION, QUIET, Letters
from traitwatch_builder.answering.respond import Job, Responder, elicited_job, neutral_job
from traitwatch_builder.answering.source import Answer, ChatPrompt, Sampling
from traitwatch_builder.definitions.elicitation import Elicitation
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.storage.worklog import Worklog

SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_tokens=10, seed=7)


class Echo:
    """Answers each conversation with its last message, in reverse order; stops after `stop` answers."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.seeds: list[int] = []
        self.longest: list[int] = []
        self.thinking: list[bool] = []
        self.stop = 10**6

    @contextmanager
    def open(self, sampling: Sampling, longest: int, thinking_opened: bool) -> "Iterator[Echo]":
        self.seeds.append(sampling.seed)
        self.longest.append(longest)
        self.thinking.append(thinking_opened)
        yield self

    def answer(self, prompts: Sequence[ChatPrompt], advance: Callable[[int], None]) -> Iterator[tuple[int, Answer]]:
        for index in reversed(range(len(prompts))):
            if self.stop == 0:
                raise KeyboardInterrupt
            self.stop -= 1
            text = prompts[index].messages[-1]["content"]
            self.asked.append(text)
            yield index, Answer(f"{text}!", finished=text != "b?")


@pytest.fixture
def echo() -> Echo:
    return Echo()


def responder(echo: Echo, sampling: Sampling = SAMPLING, model: str = "tiny") -> Responder:
    return Responder(Letters(), {"model": model}, sampling, echo.open, QUIET)


def job(*questions: str, name: str = "pos") -> Job:
    conversations = [[{"role": "user", "content": question}] for question in questions]
    return Job(
        name, conversations, list(questions), [f"t_{i}_pos_0" for i in range(len(questions))], [0] * len(questions)
    )


def test_answers_stand_in_the_rows_of_their_conversations(echo: Echo, tmp_path: Path) -> None:
    with Worklog(tmp_path / "a.jsonl") as log:
        two = [(job("a?", "b?"), log), (job("c?", name="neg"), log)]
        answers = responder(echo).run(two)
        assert answers == {"pos": [Answer("a?!", True), Answer("b?!", False)], "neg": [Answer("c?!", True)]}
        rows = responder(echo).rows(two[0][0], answers["pos"])
    assert [(r.question, r.prompt, r.answer) for r in rows] == [
        ("a?", "<user>a?<assistant>", "a?!"),
        ("b?", "<user>b?<assistant>", "b?!"),
    ]
    assert echo.longest == [len("<user>a?<assistant>")]


def test_an_interrupted_run_goes_on_and_repeats_nothing(echo: Echo, tmp_path: Path) -> None:
    three = job("a?", "b?", "c?")
    echo.stop = 2
    with Worklog(tmp_path / "a.jsonl") as log, pytest.raises(KeyboardInterrupt):
        responder(echo).run([(three, log)])
    echo.stop = 99
    with Worklog(tmp_path / "a.jsonl") as log:
        answers = responder(echo).run([(three, log)])
        assert [answer.text for answer in answers["pos"]] == ["a?!", "b?!", "c?!"]
        assert echo.asked == ["c?", "b?", "a?"]
        assert len(set(echo.seeds)) == 2, "the same seed would draw the same random numbers again"
        responder(echo).run([(three, log)])
        assert len(echo.asked) == 3
        assert len(echo.seeds) == 2, "a run without missing answers starts no source"


@pytest.mark.parametrize("change", ["sampling", "model", "question", "sample"])
def test_an_answer_is_generated_again_when_an_input_changes(echo: Echo, tmp_path: Path, change: str) -> None:
    with Worklog(tmp_path / "a.jsonl") as log:
        responder(echo).run([(job("a?"), log)])
        again = job("a?")
        if change == "sampling":
            responder(echo, sampling=Sampling(0.5, 1.0, 10, 7)).run([(again, log)])
        elif change == "model":
            responder(echo, model="other").run([(again, log)])
        elif change == "question":
            responder(echo).run([(job("b?"), log)])
        else:
            more = Job(again.name, again.conversations * 2, again.questions * 2, again.question_ids * 2, [0, 1])
            responder(echo).run([(more, log)])
    assert len(echo.asked) == 2


@pytest.mark.parametrize("opened", [True, False])
def test_the_source_learns_whether_the_template_opens_the_thinking(echo: Echo, tmp_path: Path, opened: bool) -> None:
    class Template(Letters):
        def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> str:
            return super().apply_chat_template(messages, **options) + "<think>\n" * opened

    with Worklog(tmp_path / "a.jsonl") as log:
        Responder(Template(), {}, SAMPLING, echo.open, QUIET).run([(job("a?"), log)])
    assert echo.thinking == [opened]


def test_a_source_that_gives_up_leaves_no_file_with_holes(echo: Echo, tmp_path: Path) -> None:
    echo.answer = lambda prompts, advance: iter([(0, Answer("only one", True))])  # type: ignore[method-assign]
    with Worklog(tmp_path / "a.jsonl") as log, pytest.raises(PipelineError, match="answers are missing in 'pos'"):
        responder(echo).run([(job("a?", "b?"), log)])


def test_the_rows_of_both_polarities_are_pairs() -> None:
    elicitation = Elicitation(DEFINITION, "system", "bravery")
    rows = elicitation.rows(DEFINITION.questions, 10)
    pos, neg = (elicited_job(p, "bravery", elicitation, rows, p) for p in ("pos", "neg"))  # type: ignore[arg-type]
    assert pos.questions == neg.questions
    assert pos.samples == neg.samples
    assert [i.replace("_pos_", "_neg_") for i in pos.question_ids] == neg.question_ids
    assert pos.question_ids[:2] == ["bravery_0_pos_0", "bravery_0_pos_1"]
    assert all(p != n for p, n in zip(pos.conversations, neg.conversations, strict=True))


def test_neutral_prompts_are_asked_bare_and_more_than_once() -> None:
    neutral = neutral_job(["a?", "b?"], samples=2)
    assert neutral.questions == ["a?", "a?", "b?", "b?"]
    assert neutral.samples == [0, 1, 0, 1]
    assert neutral.question_ids == ["neutral_0", "neutral_0", "neutral_1", "neutral_1"]
    assert neutral.conversations[0] == [{"role": "user", "content": "a?"}]
