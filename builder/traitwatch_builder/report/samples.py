"""The answers of a report, token by token: each token with the colour of its z.

The colour of a token has a side, above (`p`) or below (`n`) the baseline, and a step from 1 to `COLOUR_STEPS`. A token
without a projection, or close to the baseline, has no colour.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from traitwatch.spikes import FULL_COLOUR_Z
from traitwatch_builder.definitions.elicitation import Polarity
from traitwatch_builder.report.data import ReportData
from traitwatch_builder.report.text import Missing, number, visible
from traitwatch_builder.storage.answers import JudgedAnswer
from traitwatch_builder.vectors.report_evidence import Sample, spread

COLOUR_STEPS = 8
"""Colours on each side of the baseline, without the ground."""

MARKED_Z = 2.0
"""A token this far from the baseline is underlined too, for readers who cannot tell the colours, and for print."""

_ANSWERS_OF_A_FILE = 2
_TITLES: dict[Polarity, str] = {"pos": "Positive condition", "neg": "Negative condition"}


@dataclass(frozen=True)
class Baseline:
    """Mean and standard deviation that turn projections into z, units of the hidden state."""

    mean: float
    std: float


@dataclass(frozen=True)
class ColouredToken:
    """A token on the page.

    Attributes:
        text: the text of the token.
        title: projection and z, shown when the reader points at the token; empty for a token without a projection.
        classes: CSS classes, separated by spaces.
    """

    text: str
    title: str = ""
    classes: str = ""


@dataclass(frozen=True)
class ColouredAnswer:
    """An answer on the page.

    Attributes:
        sample: the answer with its question and scores.
        tokens: the tokens of the answer.
        mean_z: mean z of the tokens; None where no token has a projection.
        max_z: highest z of the tokens; or None, as `mean_z`.
    """

    sample: Sample
    tokens: Sequence[ColouredToken]
    mean_z: float | None
    max_z: float | None


@dataclass(frozen=True)
class AnswerGroup:
    """The answers under one condition."""

    polarity: Polarity
    title: str
    answers: Sequence[ColouredAnswer]


@dataclass(frozen=True)
class SamplesSection:
    """The section of the answers.

    Attributes:
        groups: one group a condition.
        note: why the answers have no colours; None where the projections are on file.
        calibrated: whether z is relative to the card's calibration, or only to the tokens on the page.
        coloured: whether any token has a projection.
    """

    groups: Sequence[AnswerGroup]
    note: Missing | None
    calibrated: bool
    coloured: bool


def samples_section(data: ReportData) -> SamplesSection | Missing:
    """Return the answers of the evidence with coloured tokens, or without evidence those of the files without colours.

    Returns:
        `Missing` where there are no answers at all.
    """
    command = f"traitwatch verify {data.card.trait}"
    samples = list(data.evidence.samples) if data.evidence else []
    note = None
    if not samples:
        samples = [*_of_file("pos", data.eval_pos or data.pos), *_of_file("neg", data.eval_neg or data.neg)]
        note = Missing("The tokens' projections are not on file, so the answers are shown without colours.", command)
    if not samples:
        return Missing("There are no answers to show.", command)
    baseline = _baseline(data, samples)
    groups = [
        AnswerGroup(polarity, title, [_answer(sample, baseline) for sample in samples if sample.polarity == polarity])
        for polarity, title in _TITLES.items()
    ]
    coloured = any(projection is not None for sample in samples for projection in sample.projections)
    return SamplesSection(groups, note, data.card.calibration is not None, coloured)


def _of_file(polarity: Polarity, answers: Sequence[JudgedAnswer]) -> list[Sample]:
    """Return a few answers of a file, each as one token without a projection."""
    chosen = [answers[i] for i in spread([answer.trait or 0.0 for answer in answers], _ANSWERS_OF_A_FILE)]
    return [
        Sample(
            polarity=polarity,
            question=answer.question,
            answer_tokens=[answer.answer],
            projections=[None],
            trait=answer.trait,
            coherence=answer.coherence,
        )
        for answer in chosen
    ]


def _baseline(data: ReportData, samples: Sequence[Sample]) -> Baseline:
    """Return the card's baseline at the served layer; without a calibration, that of the tokens on the page."""
    if data.card.calibration is not None:
        layer = data.card.calibration.layers[data.served_layer]
        return Baseline(layer.mean, layer.std)
    known = [projection for sample in samples for projection in sample.projections if projection is not None]
    return Baseline(float(np.mean(known)), max(float(np.std(known)), 1e-12)) if known else Baseline(0.0, 1.0)


def _answer(sample: Sample, baseline: Baseline) -> ColouredAnswer:
    z = [None if value is None else (value - baseline.mean) / baseline.std for value in sample.projections]
    tokens = [
        _token(visible(text), projection, token_z)
        for text, projection, token_z in zip(sample.answer_tokens, sample.projections, z, strict=True)
    ]
    known = [value for value in z if value is not None]
    return ColouredAnswer(sample, tokens, float(np.mean(known)) if known else None, max(known, default=None))


def _token(text: str, projection: float | None, z: float | None) -> ColouredToken:
    if projection is None or z is None:
        return ColouredToken(text)
    step = min(COLOUR_STEPS, round(abs(z) / FULL_COLOUR_Z * COLOUR_STEPS))
    classes = [f"{'p' if z > 0 else 'n'}{step}"] if step else []
    if abs(z) >= MARKED_Z:
        classes.append("m")
    on_one_line = text.replace("\n", "\u21b5")
    sign = "+" if z > 0 else ""
    return ColouredToken(
        text, f"\u201c{on_one_line}\u201d  projection {number(projection)}  z {sign}{number(z)}", " ".join(classes)
    )
