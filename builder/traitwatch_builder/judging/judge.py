"""What a judge of answers promises, whoever it is."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from traitwatch.card import JudgeCard
from traitwatch_builder.clients.usage import Usage

Aspect = Literal["trait", "coherence"]

OPENAI_MODEL = "gpt-4.1-mini"
"""Model of the OpenAI judge unless another is named."""


@dataclass(frozen=True)
class Question:
    """One thing that a judge is asked: an answer, and what about it.

    Attributes:
        aspect: the trait or the coherence.
        question: what was answered.
        answer: the answer; may be empty.
        context: the instruction pair or group of examples that elicited it; None where nothing did, or it is unknown.
    """

    aspect: Aspect
    question: str
    answer: str
    context: int | None = None


@dataclass(frozen=True)
class Score:
    """What a judge says.

    Attributes:
        index: of the question among those that were asked.
        value: 0 to 100; None where the judge refused, or gave no usable number.
    """

    index: int
    value: float | None


class Judge(Protocol):
    """Scores answers."""

    @property
    def card(self) -> JudgeCard:
        """Who judges, for the vector's card."""
        ...

    @property
    def usage(self) -> Usage:
        """Calls and tokens spent so far."""
        ...

    def identity(self, question: Question) -> dict[str, Any]:
        """Return JSON data that the score of `question` depends on, and nothing else: the key of a kept score."""
        ...

    def estimate(self, questions: Sequence[Question]) -> Usage:
        """Return what scoring would take, before anything is spent."""
        ...

    def score(self, questions: Sequence[Question], advance: Callable[[int], None]) -> Iterator[Score]:
        """Score answers, yielding each score as soon as it is there, in any order, each index once.

        Args:
            questions: what to score.
            advance: called with the number of questions that have just been answered.

        Raises:
            PipelineError: the judge cannot be used; what was yielded before is valid.
        """
        ...
