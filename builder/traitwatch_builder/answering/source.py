"""Sources of answers: what a source is asked (a conversation, how to sample) and what it gives."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn.

    Attributes:
        temperature: of the softmax.
        top_p: nucleus; 1 keeps all tokens.
        max_tokens: where an answer is cut off.
        seed: of the engine. Its requests carry none: on vLLM's CPU build a request with a seed ends the engine when its
            prompt is prefilled in chunks.
    """

    temperature: float
    top_p: float
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation to be answered.

    Attributes:
        messages: its messages, in OpenAI's format.
        ids: the same as tokens of the model's chat template, up to where the answer begins.
    """

    messages: list[dict[str, str]]
    ids: list[int]


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        text: its text, without the end token and without what a reasoning model thought first.
        finished: whether it ended by itself; False where it was cut off.
    """

    text: str
    finished: bool


class Answers(Protocol):
    """Where answers come from: an own engine, or servers elsewhere."""

    def answer(self, prompts: Sequence[ChatPrompt], advance: Callable[[int], None]) -> Iterator[tuple[int, Answer]]:
        """Answer conversations, yielding the index of each and its answer as soon as that has ended, in any order."""
        ...
