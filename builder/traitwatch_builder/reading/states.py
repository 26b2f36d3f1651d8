"""The interface of the engines that read hidden states: spans of texts go in, readings come out.

A reading has the mean state of a span at every layer, the state at its end, and the projections of its tokens. The
pipeline needs nothing else of a model: the mean over an answer after its prompt, the mean over a prompt and the state
at the prompt's end, the projections of every token of an answer. No engine returns the states themselves, so memory
does not grow with the number of texts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from traitwatch.vectors import Float32Array

Advance = Callable[[int], None]
"""A function that an engine calls with the number of texts that it has just read."""


@dataclass(frozen=True)
class Span:
    """A text, and the positions whose states are counted: from `start` to the text's end.

    Attributes:
        ids: token ids of the whole text.
        start: the states at positions start to len(ids) - 1 are counted; at least one position is.
    """

    ids: list[int]
    start: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < len(self.ids):
            raise ValueError(f"a span of {len(self.ids)} tokens cannot start at {self.start}")


@dataclass(frozen=True, eq=False)
class Reading:
    """The states of a span, summed up. Layer indices are those of `output_hidden_states` in transformers.

    Attributes:
        mean: `[num_layers + 1, hidden_size]`, float32: mean over the counted positions, summed in float32 or better.
        last: `[num_layers + 1, hidden_size]`, float32: the state at the text's last position.
        projections: `[num_layers + 1, counted positions]`, float32, units of the hidden state: each counted state on
            the direction of its layer; None where no directions were given.
    """

    mean: Float32Array
    last: Float32Array
    projections: Float32Array | None = None


class StateReader(Protocol):
    """An engine that reads hidden states."""

    @property
    def num_layers(self) -> int:
        """Decoder layers of the model."""
        ...

    @property
    def hidden_size(self) -> int:
        """Width of the model's residual stream."""
        ...

    @property
    def description(self) -> str:
        """The engine and its precision, for the card, e.g. `transformers, float32`."""
        ...

    def read(
        self, spans: Sequence[Span], advance: Advance, directions: Float32Array | None = None
    ) -> Iterator[tuple[int, Reading]]:
        """Read spans, in the order that suits the engine.

        Args:
            spans: the spans to read. Texts with a common beginning are read faster together than apart.
            advance: called with the number of spans that have just been read.
            directions: `[num_layers + 1, hidden_size]`, float32, unit rows (a zero row projects to zero).

        Yields:
            The index of a span in `spans`, and the reading of that span; each index once.
        """
        ...
