"""The vector and the evidence for it, summed up while the hidden states are read.

Nothing is kept per answer: an accumulator holds sums of fixed size for any number of pairs. Beside the sums of the
vector, it holds those of two kinds of evidence. First, the vectors of two halves of the questions: do they agree?
Second, vectors from shuffled labels: within each pair, the positive and the negative answer change places with
probability 1/2 (a sign-flip permutation test; Good, Permutation Tests, 2nd ed. 2000, section 3.2). A shuffled vector
is as long as a vector of answers that do not differ; a useful vector is longer.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from traitwatch.errors import ArtifactError
from traitwatch.files import write_atomically
from traitwatch.tensor_files import read_whole
from traitwatch.vectors import Float32Array, bad_layers
from traitwatch_builder.errors import PipelineError

NUM_NULL = 20
"""Number of vectors from shuffled labels. The 95th percentile of 20 values lies between the highest two."""

_SIDES = {"pos": 0, "neg": 1}


@dataclass(frozen=True, eq=False)
class Evidence:
    """The evidence of an extraction, which `verify` uses.

    Attributes:
        halves: `[2, num_layers + 1, hidden_size]`, float32: the vectors of two halves of the questions; None where
            there was one question only.
        null: `[num_null, num_layers + 1, hidden_size]`, float32: vectors from shuffled labels.
        questions: the questions whose answers made the vector; empty where they are not known.
    """

    halves: Float32Array | None
    null: Float32Array
    questions: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Write a numpy `.npz` with `null`, `questions` and, where there are halves, `halves`; whole or not at all."""
        arrays = {"null": self.null, "questions": np.array(self.questions, dtype=np.str_)}
        if self.halves is not None:
            arrays["halves"] = self.halves
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Evidence":
        """Read a file that `save` wrote.

        Raises:
            ArtifactError: no such file, a file of another kind, or arrays that do not fit each other.
        """
        if not path.exists():
            raise ArtifactError(f"{path}: no such file; `traitwatch extract` makes it.")
        content = read_whole(path)
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                null = np.asarray(arrays["null"], np.float32)
                halves = np.asarray(arrays["halves"], np.float32) if "halves" in arrays else None
                questions = tuple(map(str, np.ravel(arrays.get("questions", ()))))
        except Exception as error:  # noqa: BLE001 - NumPy and zipfile raise many kinds of errors on damaged bytes
            raise ArtifactError(
                f"{path} is not the evidence of an extraction ({type(error).__name__}: {error}); extract again."
            ) from None
        if null.ndim != 3 or (halves is not None and (halves.ndim != 3 or halves.shape != (2, *null.shape[1:]))):
            raise ArtifactError(
                f"{path} holds arrays of shapes {null.shape} and {None if halves is None else halves.shape}, not those "
                "of an extraction; extract again."
            )
        return cls(halves, null, questions)


class PairAccumulator:
    """Sums over effective pairs, in memory that does not grow with the number of pairs.

    All sums are float64: `(num_null + 4) * (num_layers + 1) * hidden_size * 8` bytes, 26 MB for an 8B model (33 x 4096,
    20 shuffles). A float32 has 24 bits and a float64 53, so the sum of some hundred float32 numbers is exact unless
    one is a millionth of another, and even then the error is 1e-16. So the order of adding does not change a float32
    result.
    """

    def __init__(
        self,
        num_pairs: int,
        question_ids: Sequence[int | str],
        shape: tuple[int, int],
        seed: int = 0,
        num_null: int = NUM_NULL,
    ) -> None:
        """Prepare for pairs.

        Args:
            num_pairs: number of pairs that will be added.
            question_ids: the question of each pair, in the order of the pairs' indices.
            shape: `(num_layers + 1, hidden_size)`.
            seed: seed of the halves and of the shuffled labels, which depend on the seed and on the indices alone.
            num_null: number of vectors from shuffled labels.
        """
        if len(question_ids) != num_pairs:
            raise ValueError(f"{num_pairs} pairs, but the questions of {len(question_ids)}")
        halves, labels = np.random.default_rng(seed).spawn(2)
        numbers = {question: i for i, question in enumerate(dict.fromkeys(question_ids))}
        second = np.zeros(len(numbers), dtype=int)
        second[halves.permutation(len(numbers))[: len(numbers) // 2]] = 1
        self._half = [int(second[numbers[question]]) for question in question_ids]
        self._questions = tuple(map(str, numbers))
        # Half of the labels exactly: with a random number of them, a share of the real difference would remain.
        half = np.arange(num_pairs) < num_pairs // 2
        self._swapped = np.stack([labels.permutation(half) for _ in range(num_null)])
        self._added = np.zeros((2, num_pairs), dtype=bool)
        self._sums = np.zeros((2, 2, *shape))  # [half, polarity, layer, hidden]
        self._null = np.zeros((num_null, *shape))

    def add(self, polarity: Literal["pos", "neg"], index: int, mean: Float32Array) -> None:
        """Add one answer, in any order.

        Args:
            polarity: the condition of the answer.
            index: index of the pair of the answer, from 0.
            mean: `[num_layers + 1, hidden_size]`, float32: the mean state of the answer at each layer.

        Raises:
            PipelineError: NaN or infinity in `mean`.
            ValueError: a wrong shape, an index out of range, or an answer that has been added before.
        """
        side = _SIDES[polarity]
        if mean.shape != self._null.shape[1:]:
            raise ValueError(f"the mean states have shape {mean.shape}, not {self._null.shape[1:]}")
        if not 0 <= index < self._added.shape[1]:
            raise ValueError(f"there is no pair {index} among {self._added.shape[1]}")
        if self._added[side, index]:
            raise ValueError(f"the {polarity} answer of pair {index} has been added before")
        if bad := bad_layers(mean):
            raise PipelineError(
                f"the {polarity} answer of pair {index} has NaN or infinite mean states at layers {bad}; read it in "
                "float32 or bfloat16 (--dtype), float16 overflows on some models."
            )
        self._added[side, index] = True
        self._sums[self._half[index], side] += mean
        for total, swapped in zip(self._null, self._swapped[:, index], strict=True):
            if bool(swapped) == bool(side):
                total += mean
            else:
                total -= mean

    def vector(self) -> Float32Array:
        """Return the persona vector: mean over the positive answers minus mean over the negative ones.

        Returns:
            `[num_layers + 1, hidden_size]`, float32, units of the hidden state.

        Raises:
            PipelineError: there are no pairs, or an answer has not been added.
        """
        self._check_complete()
        pos, neg = self._sums.sum(axis=0)
        vector: Float32Array = ((pos - neg) / len(self._half)).astype(np.float32)
        return vector

    def halves(self) -> tuple[Float32Array, Float32Array] | None:
        """Return the vectors of two random halves of the questions, each as `vector` returns it; None for one question.

        All pairs of a question are in the same half: answers to one question are alike, whatever the condition.
        """
        self._check_complete()
        sizes = np.bincount(self._half, minlength=2)
        if not sizes.all():
            return None
        first, second = (
            ((pos - neg) / size).astype(np.float32) for (pos, neg), size in zip(self._sums, sizes, strict=True)
        )
        return first, second

    def null(self) -> Float32Array:
        """Return the vectors from shuffled labels: `[num_null, num_layers + 1, hidden_size]`, float32."""
        self._check_complete()
        null: Float32Array = (self._null / len(self._half)).astype(np.float32)
        return null

    def evidence(self) -> Evidence:
        """Return halves, null and questions as the evidence for the file."""
        halves = self.halves()
        return Evidence(None if halves is None else np.stack(halves), self.null(), self._questions)

    def _check_complete(self) -> None:
        if not self._half:
            raise PipelineError("there is no effective pair to make a vector of.")
        missing = [f"{name} {i}" for name, side in _SIDES.items() for i in np.flatnonzero(~self._added[side])]
        if missing:
            examples = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise PipelineError(
                f"the mean states of {len(missing)} answers have not been added ({examples}); the reader must return "
                "every answer once."
            )
