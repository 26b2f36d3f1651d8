"""A trait's report: one HTML page that needs nothing but itself, made from a vector's files.

The card, the `.pt` and the answers beside it say most. What only the model can tell (the projections of held-out
answers, the tokens of a few answers with theirs, the spread of neutral tokens) a build leaves in an evidence file,
`.traitwatch/<trait>-report.json`. A page can be made without any of these; it then says what is missing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from traitwatch.errors import ArtifactError
from traitwatch.files import read_json, write_atomically
from traitwatch.vectors import RESPONSE_AVG, Card, check_trait_name, load_vector
from traitwatch_builder.definitions.elicitation import Polarity
from traitwatch_builder.storage.answers import JudgedAnswer, read_answers
from traitwatch_builder.storage.workspace import Workspace
from traitwatch_builder.vectors.verdict import served_layer

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
        """Count `values` (z, finite) in bins of `width`, edges at whole multiples of it, as many as they need.

        At most 400 bins: the width doubles until they suffice.
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
        projections: mean projection of each, units of the hidden state.
        scores: the judge's trait score of each, 0 to 100; None where there is none.
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
    """An answer to be shown, token by token.

    Attributes:
        polarity: the condition that elicited it.
        question: the question.
        answer_tokens: the text of each token; joined they are the answer.
        projections: of each token, units of the hidden state; None where a token has no state.
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
    """What a report shows and only the model can tell: `.traitwatch/<trait>-report.json`.

    Attributes:
        sha256: of the vector on which it was measured, as in its card.
        layer: layer index of every projection and z in it: the layer that is served.
        held_out_pos: the positive answers to the eval questions.
        held_out_neg: the negative ones.
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


@dataclass(frozen=True)
class ReportData:
    """Everything that a report is made from.

    Attributes:
        card: the vector's card.
        norms: `[num_layers + 1]`, length of the vector at each layer, units of the hidden state.
        served_layer: the layer index that servers read by default.
        pos: the judged positive answers to the extraction questions; empty where there is no file.
        neg: the negative ones.
        eval_pos: the positive answers to the eval questions.
        eval_neg: the negative ones.
        evidence: what only the model can tell; None where no build left it.
    """

    card: Card
    norms: Sequence[float]
    served_layer: int
    pos: Sequence[JudgedAnswer] = ()
    neg: Sequence[JudgedAnswer] = ()
    eval_pos: Sequence[JudgedAnswer] = ()
    eval_neg: Sequence[JudgedAnswer] = ()
    evidence: ReportEvidence | None = None


def load_evidence(path: Path) -> ReportEvidence:
    """Read an evidence file; raise `ArtifactError` where it is missing or malformed."""
    return read_json(path, ReportEvidence)


def save_evidence(path: Path, evidence: ReportEvidence) -> None:
    """Write an evidence file."""
    write_atomically(path, evidence.model_dump_json().encode() + b"\n")


def spread(values: Sequence[float], count: int = 3) -> list[int]:
    """Choose `count` indices spread over the quantiles of `values`, lowest value first: which answers to show.

    The middle of each of `count` equal shares is taken, so that neither extreme stands for all; ties go by index.
    """
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    count = min(count, len(order))
    return [order[(2 * share + 1) * len(order) // (2 * count)] for share in range(count)]


def read_report_data(directory: Path, trait: str) -> ReportData:
    """Collect a report's data from the files of a directory of vectors; no model is asked.

    Raises:
        ArtifactError: no vector or no card of this trait, or a file that is there is malformed or of another vector.
    """
    check_trait_name(trait)
    candidates = [directory / f"{trait}_{RESPONSE_AVG}.pt", directory / f"{trait}.pt"]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        known = sorted(file.name.removesuffix(f"_{RESPONSE_AVG}.pt") for file in directory.glob(f"*_{RESPONSE_AVG}.pt"))
        raise ArtifactError(
            f"{candidates[0]}: no such vector; {directory} holds {', '.join(known) or 'none'}. "
            f"`traitwatch extract {trait}` makes one."
        )
    vector = load_vector(path, trait)
    if vector.card is None:
        raise ArtifactError(
            f"{path} has no card ({directory / f'{trait}.json'}), so there is nothing to report; "
            f"`traitwatch extract {trait}` writes both."
        )
    file = Workspace(directory, trait).report_evidence
    evidence = load_evidence(file) if file.is_file() else None
    if evidence is not None and (evidence.sha256 != vector.card.sha256 or evidence.layer > vector.num_layers):
        # Left by an earlier vector of this name: as good as none.
        evidence = None

    def answers(kind: str) -> list[JudgedAnswer]:
        file = directory / f"{trait}_{kind}.csv"
        return read_answers(file, trait) if file.is_file() else []

    return ReportData(
        card=vector.card,
        norms=np.linalg.norm(vector.vector.astype(np.float64), axis=1).tolist(),
        served_layer=evidence.layer if evidence else served_layer(vector.num_layers),
        pos=answers("pos"),
        neg=answers("neg"),
        eval_pos=answers("eval_pos"),
        eval_neg=answers("eval_neg"),
        evidence=evidence,
    )


def render_report(data: ReportData) -> str:
    """Return the report as one HTML page that loads nothing: styles and plots are in it, scripts are not.

    The same data give the same page.
    """
    from traitwatch_builder.report.view import view

    return render_page("report.html.j2", view(data))


def write_report(directory: Path, trait: str, out: Path | None = None) -> Path:
    """Write the report of a trait to `out`, by default `<trait>.html` among its files; return where it is.

    Raises:
        ArtifactError: as `read_report_data`.
    """
    path = out or directory / f"{trait}.html"
    write_atomically(path, render_report(read_report_data(directory, trait)).encode())
    return path


def render_page(template: str, context: dict[str, Any]) -> str:
    """Render a template of this folder, everything escaped that is not a plot."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(context)
