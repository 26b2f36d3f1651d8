"""The protocol of a source of answers, `Answers`: conversations go in, answers come out.

`engine.Engine` and `endpoint.EndpointAnswers` are the two sources.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn.

    Attributes:
        temperature: the temperature of the softmax.
        top_p: the share of the probability that the nucleus covers; 1 keeps all tokens.
        max_tokens: the number of tokens after which an answer is cut off.
        seed: the seed of the engine. The requests have no seed of their own: on vLLM's CPU build, a request with a seed
            ends the engine when its prompt is prefilled in chunks.
    """

    temperature: float
    top_p: float
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation that waits for an answer.

    Attributes:
        messages: the messages, in OpenAI's format.
        ids: the same conversation as tokens of the model's chat template, up to where the answer begins.
    """

    messages: list[dict[str, str]]
    ids: list[int]


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        text: the text, without the end token and without the thinking of a reasoning model.
        finished: whether the answer ended by itself; False where it was cut off.
    """

    text: str
    finished: bool


class Answers(Protocol):
    """A source of answers: an engine of our own, or servers elsewhere."""

    def answer(self, prompts: Sequence[ChatPrompt], advance: Callable[[int], None]) -> Iterator[tuple[int, Answer]]:
        """Answer conversations. Yield the index and the answer of each as soon as the answer ends, in any order.

        Args:
            prompts: the conversations.
            advance: called with the number of answers that have just arrived.
        """
        ...
