"""The protocol of a judge: what it is asked (`Question`), what it gives (`Score`), and what it promises (`Judge`).

`openai_judge.OpenAIJudge` and `likelihood.LikelihoodJudge` are the two judges.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from traitwatch.card import JudgeCard
from traitwatch_builder.clients.usage import Usage

Aspect = Literal["trait", "coherence"]

OPENAI_MODEL = "gpt-4.1-mini"
"""The default model of the OpenAI judge."""


@dataclass(frozen=True)
class Question:
    """A question to a judge: one aspect of one answer.

    Attributes:
        aspect: the trait or the coherence.
        question: the question that was answered.
        answer: the answer; may be empty.
        context: the instruction pair or group of examples that elicited the answer; None where there was none, or it
            is unknown.
    """

    aspect: Aspect
    question: str
    answer: str
    context: int | None = None


@dataclass(frozen=True)
class Score:
    """A judge's answer to a question.

    Attributes:
        index: the question's index in the sequence that the judge got.
        value: 0 to 100; None where the judge refused, or gave no usable number.
    """

    index: int
    value: float | None


class Judge(Protocol):
    """Scores answers."""

    @property
    def card(self) -> JudgeCard:
        """The judge, for the vector's card."""
        ...

    @property
    def usage(self) -> Usage:
        """Calls and tokens spent so far."""
        ...

    def identity(self, question: Question) -> dict[str, Any]:
        """Return the JSON data that the score of `question` depends on, and no other data: its key in the worklog."""
        ...

    def estimate(self, questions: Sequence[Question]) -> Usage:
        """Return the calls and tokens that scoring would take; no request is sent."""
        ...

    def score(self, questions: Sequence[Question], advance: Callable[[int], None]) -> Iterator[Score]:
        """Score answers. Yield each score as soon as it is known: in any order, and each index once.

        Args:
            questions: the questions to the judge.
            advance: called with the number of questions that the judge has just answered.

        Raises:
            PipelineError: the judge cannot be used. Scores that were yielded before the error are valid.
        """
        ...
