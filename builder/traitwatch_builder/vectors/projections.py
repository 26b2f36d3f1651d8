"""Projections of held-out answers: what `held_out` reads from a model and `verify` makes statistics of.

A projection is `h . v / ||v||`, in units of the hidden state. Every array has one row a layer, so that row L belongs to
layer index L.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from traitwatch.vectors import Float32Array, bad_layers
from traitwatch_builder.definitions.elicitation import Polarity
from traitwatch_builder.errors import PipelineError

_ADJECTIVES: dict[Polarity, str] = {"pos": "positive", "neg": "negative"}


@dataclass(frozen=True, eq=False)
class AnswerProjections:
    """The projections of the held-out answers of one polarity, and the judge's scores of the same answers.

    Attributes:
        response: `[num_layers + 1, num_answers]`, float32: of the mean state of each answer.
        prompt_last: as `response`: of the last prompt token, under the prompt that elicited the answer; None where
            the prompts were not read.
        null: `[num_layers + 1, num_null, num_answers]`, float32: of the mean state of each answer on each vector from
            shuffled labels; None where there are no such vectors.
        scores: the judge's trait score of each answer, 0 to 100, None for an answer without a score; or None where no
            answer was judged.
    """

    response: Float32Array
    prompt_last: Float32Array | None = None
    null: Float32Array | None = None
    scores: Sequence[float | None] | None = None

    @property
    def num_answers(self) -> int:
        """Number of answers."""
        return int(self.response.shape[1])

    @property
    def scores_or_none(self) -> list[float | None]:
        """The score of each answer, None for all of them where no answer was judged."""
        return [None] * self.num_answers if self.scores is None else list(self.scores)

    def check(self, polarity: Polarity, num_rows: int, num_null: int | None) -> None:
        """Refuse arrays that do not fit the vector or each other.

        Args:
            polarity: the condition of the answers, for the messages.
            num_rows: num_layers + 1 of the vector.
            num_null: how many vectors from shuffled labels `null` has to be of; None for any number.

        Raises:
            PipelineError: a wrong shape, NaN or infinity (with the layers), or scores of another number of answers.
        """
        adjective = _ADJECTIVES[polarity]
        check_array(f"{adjective} projections", self.response, (num_rows, None), layer_axis=0)
        count = self.num_answers
        if self.prompt_last is not None:
            check_array(f"{adjective} prompt-last projections", self.prompt_last, (num_rows, count), layer_axis=0)
        if self.null is not None:
            check_array(f"{adjective} projections on the null", self.null, (num_rows, num_null, count), layer_axis=0)
        if self.scores is not None and len(self.scores) != count:
            raise PipelineError(
                f"{count} {adjective} answers have projections, but {len(self.scores)} have a score or a None."
            )


def check_array(name: str, array: npt.NDArray[Any], shape: tuple[int | None, ...], layer_axis: int) -> None:
    """Refuse an array of another shape, or with values that are not finite.

    Args:
        name: what the array holds, in the plural, for the message.
        array: any float.
        shape: the shape that it must have; None is any size.
        layer_axis: the axis along which the layer index runs.

    Raises:
        PipelineError: another shape, or NaN or infinity (with the layers).
    """
    fits = array.ndim == len(shape) and all(w in (None, g) for g, w in zip(array.shape, shape, strict=True))
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise PipelineError(f"the {name} have shape {list(array.shape)}, not [{wanted}]; read the answers again.")
    if bad := bad_layers(array, axis=layer_axis):
        raise PipelineError(f"the {name} hold NaN or infinity at layers {bad}; read in float32 or bfloat16.")
