"""The evidence file of a report, `.traitwatch/<trait>-report.json`: measurements that need the model.

The file holds the projections of held-out answers, the tokens of a few answers with their projections, and the
histogram of neutral tokens. A build writes the file, and the report reads it.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from traitwatch.files import read_json, write_atomically
from traitwatch_builder.definitions.elicitation import Polarity

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


_Score = Annotated[float, Field(ge=0, le=100)]


class Histogram(BaseModel):
    """A histogram: `counts[i]` values lie between `edges[i]` and `edges[i + 1]`."""

    model_config = _STRICT
    edges: list[float] = Field(min_length=2)
    counts: list[Annotated[int, Field(ge=0)]]

    @model_validator(mode="after")
    def _fits(self) -> "Histogram":
        if len(self.counts) != len(self.edges) - 1 or sorted(set(self.edges)) != self.edges:
            raise ValueError("a histogram needs ascending edges, one more than counts")
        return self

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray, width: float = 0.25) -> "Histogram":
        """Count `values` (z, finite) in bins of `width`, whose edges are whole multiples of `width`.

        There are at most 400 bins: the width doubles until 400 suffice.
        """
        data = np.asarray(values, dtype=np.float64)
        if not data.size:
            raise ValueError("no values to count")
        while True:
            first, last = math.floor(data.min() / width), math.floor(data.max() / width) + 1
            if last - first <= 400:
                break
            width *= 2
        edges = np.arange(first, last + 1) * width
        return cls(edges=edges.tolist(), counts=np.histogram(data, edges)[0].tolist())


class HeldOut(BaseModel):
    """Held-out answers of one condition.

    Attributes:
        projections: mean projection of each answer, units of the hidden state.
        scores: the judge's trait score of each answer, 0 to 100; None for an answer without a score.
    """

    model_config = _STRICT
    projections: list[float]
    scores: list[_Score | None]

    @model_validator(mode="after")
    def _fits(self) -> "HeldOut":
        if len(self.projections) != len(self.scores):
            raise ValueError(f"{len(self.projections)} projections for {len(self.scores)} scores")
        return self


class Sample(BaseModel):
    """An answer that the report shows token by token.

    Attributes:
        polarity: the condition that elicited the answer.
        question: the question.
        answer_tokens: the text of each token; the answer is all of them joined.
        projections: projection of each token, units of the hidden state; None for a token without a state.
        trait: the judge's trait score, 0 to 100.
        coherence: the judge's coherence, 0 to 100.
    """

    model_config = _STRICT
    polarity: Polarity
    question: str
    answer_tokens: list[str]
    projections: list[float | None]
    trait: _Score | None = None
    coherence: _Score | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Sample":
        if len(self.answer_tokens) != len(self.projections):
            raise ValueError(f"{len(self.projections)} projections for {len(self.answer_tokens)} tokens")
        return self


class ReportEvidence(BaseModel):
    """The content of the evidence file.

    Attributes:
        sha256: SHA-256 of the vector that was measured, as in its card.
        layer: layer index of every projection and z of the file: the layer that is served.
        held_out_pos: the positive answers to the eval questions.
        held_out_neg: the negative answers to the eval questions.
        neutral_z_histogram: z of the tokens of the calibration's neutral answers.
        samples: answers of both polarities.
    """

    model_config = _STRICT
    format: Literal[1] = 1
    sha256: str
    layer: int = Field(ge=0)
    held_out_pos: HeldOut | None = None
    held_out_neg: HeldOut | None = None
    neutral_z_histogram: Histogram | None = None
    samples: list[Sample] = Field(default_factory=list)


def load_evidence(path: Path) -> ReportEvidence:
    """Read an evidence file; raise `ArtifactError` where it is missing or malformed."""
    return read_json(path, ReportEvidence)


def save_evidence(path: Path, evidence: ReportEvidence) -> None:
    """Write an evidence file."""
    write_atomically(path, evidence.model_dump_json().encode() + b"\n")


def spread(values: Sequence[float], count: int = 3) -> list[int]:
    """Return `count` indices spread over the quantiles of `values`, lowest value first: the answers to show.

    The middle of each of `count` equal shares is taken, so that no extreme stands for all; equal values are ordered by
    index.
    """
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    count = min(count, len(order))
    return [order[(2 * share + 1) * len(order) // (2 * count)] for share in range(count)]
