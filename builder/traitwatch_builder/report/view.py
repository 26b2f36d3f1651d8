"""The context of a report's template: one entry a section, with numbers as text and plots as SVG.

A section or a plot that cannot be shown is a `Missing`, which names what is missing and the command that makes it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from markupsafe import Markup

from traitwatch.card import Calibration, Card, LayerCalibration, LayerChoice, LayerVerification, Verification
from traitwatch.spikes import FULL_COLOUR_Z
from traitwatch_builder.report import plots
from traitwatch_builder.report.data import ReportData
from traitwatch_builder.report.samples import COLOUR_STEPS, MARKED_Z, samples_section
from traitwatch_builder.report.text import Missing, number, visible
from traitwatch_builder.storage.answers import JudgedAnswer
from traitwatch_builder.vectors.report_evidence import HeldOut

VerdictLevel = Literal["good", "doubtful", "null", "unknown"]
_WORDS: dict[VerdictLevel, str] = {"good": "Good", "doubtful": "Doubtful", "null": "No better than chance"}


# A plot, ready for the page, or the sentence in its place.
_Plot = Markup | Missing


@dataclass(frozen=True)
class KeyFigure:
    """A figure of the header: a label, a value, and a remark in small print."""

    label: str
    value: str
    remark: str


@dataclass(frozen=True)
class Separation:
    """The held-out AUC by layer.

    Attributes:
        svg: the plot.
        num_pos: held-out positive answers.
        num_neg: held-out negative answers.
        has_null: whether the plot has the band of vectors from shuffled labels.
    """

    svg: Markup
    num_pos: int
    num_neg: int
    has_null: bool


@dataclass(frozen=True)
class HeldOutPlot:
    """The projections of held-out answers against the judge's scores.

    Attributes:
        svg: the plot.
        at: the verification at the served layer; None where there is none.
        unscored: answers that the plot leaves out, since the judge gave no score.
    """

    svg: Markup
    at: LayerVerification | None
    unscored: int


@dataclass(frozen=True)
class VectorSection:
    """The vector itself.

    Attributes:
        norm: the plot of its length by layer.
        no_null: why that plot has no null; None where the plot has one.
        split_half: the plot of the cosine between two halves of the questions.
        rows: the verification layer by layer; empty where there is none.
    """

    norm: Markup
    no_null: Missing | None
    split_half: _Plot
    rows: Sequence[LayerVerification]


@dataclass(frozen=True)
class ScoreRow:
    """A row of the table of scores: one answers file.

    Attributes:
        name: the name of the row.
        answers: answers in the file.
        trait: mean trait score, 0 to 100; None without scores.
        coherence: mean coherence, 0 to 100; None without scores.
        unscored: answers without a trait score.
        passing: answers that pass both thresholds; None where a threshold or the scores are unknown.
    """

    name: str
    answers: int
    trait: float | None
    coherence: float | None
    unscored: int
    passing: int | None


@dataclass(frozen=True)
class ScoresSection:
    """The judge's scores: a histogram by aspect, and a row of the table by answers file."""

    histograms: dict[str, _Plot]
    rows: Sequence[ScoreRow]


@dataclass(frozen=True)
class CalibrationSection:
    """The calibration, its entry of the served layer, and the histogram of neutral tokens."""

    all: Calibration
    layer: LayerCalibration
    histogram: _Plot


@dataclass(frozen=True)
class LayersSection:
    """The choice of layer, and a plot by aspect; no plots where steering was not measured."""

    choice: LayerChoice
    svg: dict[str, Markup]


def verdict_level(verification: Verification | None) -> tuple[VerdictLevel, str, str]:
    """Return how far the vector can be trusted: the level, the level in words, and the verdict without its level.

    A verdict begins with its level and a colon (see `traitwatch_builder.vectors.verdict`).
    """
    if verification is None:
        return "unknown", "Not verified", "The vector has not been tested on held-out answers."
    level: VerdictLevel = "good"
    if not verification.better_than_null:
        level = "null"
    elif verification.verdict.lower().startswith("doubtful"):
        level = "doubtful"
    word = _WORDS[level]
    text = verification.verdict
    if text.lower().startswith(f"{word.lower()}: "):
        text = text[len(word) + 2 :]
        text = text[:1].upper() + text[1:]
    return level, word, text


def template_context(data: ReportData) -> dict[str, Any]:
    """Return the context of `report.html.j2`."""
    card = data.card
    level, word, verdict = verdict_level(card.verification)
    return {
        "card": card,
        "level": level,
        "word": word,
        "verdict": verdict,
        "served": data.served_layer,
        "figures": _key_figures(data),
        "separation": _separation(data),
        "held_out": _held_out(data),
        "vector": _vector(data),
        "scores": _scores(data),
        "calibration": _calibration(data),
        "layers": _layers(card),
        "samples": samples_section(data),
        "steps": COLOUR_STEPS,
        "full_z": FULL_COLOUR_Z,
        "marked_z": MARKED_Z,
        "number": number,
        "visible": visible,
        "is_missing": lambda part: isinstance(part, Missing),
    }


def _at(card: Card, layer: int | None) -> LayerVerification | None:
    layers = card.verification.layers if card.verification else []
    return next((entry for entry in layers if entry.layer == layer), None)


def _key_figures(data: ReportData) -> list[KeyFigure]:
    card = data.card
    served, best = _at(card, data.served_layer), _at(card, card.best_layer)
    pairs = card.counts.get("effective_pairs")
    of_pairs = f"of {card.counts['pairs']} pairs" if "pairs" in card.counts else ""
    null = f"; null {number(served.null_auc)}" if served and served.null_auc else ""
    figures = [
        KeyFigure("Effective pairs", "\u2013" if pairs is None else str(pairs), of_pairs),
        KeyFigure(
            f"AUC, layer {data.served_layer}",
            number(served.auc if served else None, 3),
            f"held out; the served layer{null}",
        ),
        KeyFigure(
            f"AUC, layer {card.best_layer}" if best else "AUC, best layer",
            number(best.auc if best else None, 3),
            "held out; the best layer" if best else "no best layer yet",
        ),
        KeyFigure(
            "Split-half cosine",
            number(served.split_half_cosine if served else None),
            f"at layer {data.served_layer}",
        ),
    ]
    if card.calibration is None:
        figures.append(KeyFigure("Calibration", "none", "projections have no z"))
    else:
        tokens = f"{card.calibration.num_tokens:,}".replace(",", "\u2009")
        figures.append(KeyFigure("Calibration", tokens, f"tokens, {card.calibration.num_prompts} neutral prompts"))
    if card.source is not None:
        figures.append(KeyFigure("Imported from", card.source.format, f"{card.source.file}, {card.source.date}"))
    judge = card.judge
    figures.append(KeyFigure("Judge", judge.name if judge else "unknown", judge.model if judge else ""))
    return figures


def _separation(data: ReportData) -> Separation | Missing:
    verification = data.card.verification
    if verification is None or all(layer.auc is None for layer in verification.layers):
        return Missing("No held-out AUC has been measured.", f"traitwatch verify {data.card.trait}")
    svg = plots.auc_by_layer(verification.layers, data.served_layer, data.card.best_layer)
    has_null = any(layer.null_auc is not None for layer in verification.layers)
    return Separation(Markup(svg), verification.num_pos, verification.num_neg, has_null)


def _held_out(data: ReportData) -> HeldOutPlot | Missing:
    evidence = data.evidence
    if evidence is None or evidence.held_out_pos is None or evidence.held_out_neg is None:
        return Missing("The projections of held-out answers are not on file.", f"traitwatch verify {data.card.trait}")
    pos, neg = _scored(evidence.held_out_pos), _scored(evidence.held_out_neg)
    if not pos[0] and not neg[0]:
        return Missing("The held-out answers have no judge scores.", f"traitwatch judge {data.card.trait}")
    return HeldOutPlot(
        svg=Markup(plots.held_out_scatter(pos, neg, data.served_layer)),
        at=_at(data.card, data.served_layer),
        unscored=sum(score is None for score in (*evidence.held_out_pos.scores, *evidence.held_out_neg.scores)),
    )


def _scored(answers: HeldOut) -> tuple[list[float], list[float]]:
    """Return the scores and the projections of the answers that have a score."""
    points = [(s, p) for s, p in zip(answers.scores, answers.projections, strict=True) if s is not None]
    return [score for score, _ in points], [projection for _, projection in points]


def _vector(data: ReportData) -> VectorSection:
    verification = data.card.verification
    layers = verification.layers if verification else []
    command = f"traitwatch verify {data.card.trait}"
    split_half: _Plot = Missing("The two halves of the questions have not been compared.", command)
    if any(layer.split_half_cosine is not None for layer in layers):
        split_half = Markup(plots.split_half_by_layer(layers, data.served_layer))
    has_null = any(layer.null_norm is not None for layer in layers)
    return VectorSection(
        norm=Markup(plots.norm_by_layer(data.norms, layers, data.served_layer)),
        no_null=None if has_null else Missing("The null of the length has not been measured.", command),
        split_half=split_half,
        rows=layers,
    )


def _scores(data: ReportData) -> ScoresSection | Missing:
    card = data.card
    if not data.pos and not data.neg:
        return Missing("No file of judged answers lies beside the vector.", f"traitwatch judge {card.trait}")
    files = (
        ("Extraction, positive", data.pos, _shows_trait),
        ("Extraction, negative", data.neg, _lacks_trait),
        ("Held out, positive", data.eval_pos, _shows_trait),
        ("Held out, negative", data.eval_neg, _lacks_trait),
    )
    rows = [_score_row(name, answers, card, passes) for name, answers, passes in files if answers]
    histograms: dict[str, _Plot] = {}
    for aspect, threshold in (("trait", card.threshold), ("coherence", card.coherence)):
        pos, neg = ([s for a in side if (s := getattr(a, aspect)) is not None] for side in (data.pos, data.neg))
        histograms[aspect] = (
            Markup(plots.score_histogram(f"{aspect}-scores", aspect, pos, neg, threshold))
            if pos or neg
            else Missing(f"The answers have no {aspect} scores.", f"traitwatch judge {card.trait}")
        )
    return ScoresSection(histograms, rows)


def _shows_trait(score: float, threshold: float) -> bool:
    return score >= threshold


def _lacks_trait(score: float, threshold: float) -> bool:
    return score < 100 - threshold


def _score_row(
    name: str, answers: Sequence[JudgedAnswer], card: Card, passes: Callable[[float, float], bool]
) -> ScoreRow:
    trait = [a.trait for a in answers if a.trait is not None]
    coherence = [a.coherence for a in answers if a.coherence is not None]
    passing = None
    if card.threshold is not None and card.coherence is not None and trait:
        passing = sum(
            a.trait is not None
            and a.coherence is not None
            and passes(a.trait, card.threshold)
            and a.coherence >= card.coherence
            for a in answers
        )
    return ScoreRow(
        name=name,
        answers=len(answers),
        trait=float(np.mean(trait)) if trait else None,
        coherence=float(np.mean(coherence)) if coherence else None,
        unscored=sum(a.trait is None for a in answers),
        passing=passing,
    )


def _calibration(data: ReportData) -> CalibrationSection | Missing:
    calibration = data.card.calibration
    if calibration is None:
        return Missing("The vector has no baseline.", f"traitwatch calibrate {data.card.trait}")
    layer = calibration.layers[data.served_layer]
    histogram: _Plot = Missing("The z of neutral tokens is not on file.", f"traitwatch calibrate {data.card.trait}")
    if data.evidence and (counted := data.evidence.neutral_z_histogram):
        histogram = Markup(plots.neutral_histogram(counted.edges, counted.counts, layer.thresholds))
    return CalibrationSection(calibration, layer, histogram)


def _layers(card: Card) -> LayersSection | Missing:
    choice = card.layer_choice
    if choice is None:
        return Missing("The layers have not been ranked by steering.", f"traitwatch layers {card.trait}")
    svg = {}
    if choice.steering:
        for aspect, floor in (("trait", None), ("coherence", choice.coherence_floor)):
            svg[aspect] = Markup(plots.steering_plot(f"steered-{aspect}", aspect, choice.steering, floor))
    return LayersSection(choice, svg)
