"""What a report says, ready for its template: numbers as text, plots as SVG, tokens with their colours.

A section that cannot be shown holds a `Missing` instead: what is not there, and the command that makes it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from markupsafe import Markup

from traitwatch.card import Card, LayerVerification, Verification
from traitwatch_builder.definitions.elicitation import Polarity
from traitwatch_builder.report import plots
from traitwatch_builder.report.data import ReportData
from traitwatch_builder.storage.answers import JudgedAnswer
from traitwatch_builder.vectors.report_evidence import Sample, spread

Level = Literal["good", "doubtful", "null", "unknown"]
_WORDS: dict[Level, str] = {"good": "Good", "doubtful": "Doubtful", "null": "No better than chance"}
# Token colours: steps on each side of the baseline, and the z at which the last one is reached.
STEPS = 8
FULL_Z = 4.0
# A token this far from the baseline is underlined too, for those who cannot tell the colours, and for print.
MARKED_Z = 2.0
_VISIBLE = {code: chr(0x2400 + code) for code in range(32) if code not in (9, 10)} | {127: "\u2421"}
_VISIBLE |= dict.fromkeys(range(0xD800, 0xE000), "\ufffd") | dict.fromkeys(range(0x80, 0xA0), "\ufffd")


@dataclass(frozen=True)
class Missing:
    """Why a part of the report is not there.

    Attributes:
        what: the sentence that says what is missing.
        command: what makes it.
    """

    what: str
    command: str


def verdict_level(verification: Verification | None) -> tuple[Level, str, str]:
    """Return how far the vector can be trusted: the level, the level in words, and the verdict without it.

    A verdict begins with its level and a colon (see `traitwatch_builder.vectors.verdict`).
    """
    if verification is None:
        return "unknown", "Not verified", "Whether it tells the trait has not been measured."
    level: Level = "good"
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


def view(data: ReportData) -> dict[str, Any]:
    """Return the template's context."""
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
        "samples": _samples(data),
        "steps": STEPS,
        "full_z": FULL_Z,
        "marked_z": MARKED_Z,
        "number": _number,
        "visible": visible,
        "is_missing": lambda part: isinstance(part, Missing),
    }


def visible(text: str) -> str:
    """Return `text` with what HTML cannot hold (NUL and other control characters, lone surrogates) made visible."""
    return text.translate(_VISIBLE)


def _number(value: float | None, digits: int = 2) -> str:
    return "\u2013" if value is None else f"{value:.{digits}f}".replace("-", "\u2212")


def _at(card: Card, layer: int | None) -> LayerVerification | None:
    layers = card.verification.layers if card.verification else []
    return next((entry for entry in layers if entry.layer == layer), None)


def _key_figures(data: ReportData) -> list[tuple[str, str, str]]:
    """Return label, value and remark of each figure of the header."""
    card = data.card
    here, best = _at(card, data.served_layer), _at(card, card.best_layer)
    pairs = card.counts.get("effective_pairs")
    figures = [
        ("Effective pairs", "\u2013" if pairs is None else str(pairs),
         f"of {card.counts['pairs']} pairs" if "pairs" in card.counts else ""),
        (f"AUC, layer {data.served_layer}", _number(here.auc if here else None, 3),
         "held out; the served layer" + (f"; null {_number(here.null_auc)}" if here and here.null_auc else "")),
        (f"AUC, layer {card.best_layer}" if best else "AUC, best layer",
         _number(best.auc if best else None, 3), "held out; the best layer" if best else "no best layer yet"),
        ("Split-half cosine", _number(here.split_half_cosine if here else None), f"at layer {data.served_layer}"),
    ]  # fmt: skip
    if card.calibration is None:
        figures.append(("Calibration", "none", "projections have no z"))
    else:
        tokens = f"{card.calibration.num_tokens:,}".replace(",", "\u2009")
        figures.append(("Calibration", tokens, f"tokens, {card.calibration.num_prompts} neutral prompts"))
    judge = card.judge
    figures.append(("Judge", judge.name if judge else "unknown", judge.model if judge else ""))
    return figures


def _separation(data: ReportData) -> Any:
    verification = data.card.verification
    if verification is None or all(layer.auc is None for layer in verification.layers):
        return Missing("No held-out AUC has been measured.", f"traitwatch verify {data.card.trait}")
    svg = plots.auc_by_layer(verification.layers, data.served_layer, data.card.best_layer)
    has_null = any(layer.null_auc is not None for layer in verification.layers)
    counts = {"num_pos": verification.num_pos, "num_neg": verification.num_neg}
    return {"svg": Markup(svg), "has_null": has_null, **counts}


def _held_out(data: ReportData) -> Any:
    evidence = data.evidence
    if evidence is None or evidence.held_out_pos is None or evidence.held_out_neg is None:
        return Missing("The projections of held-out answers are not on file.", f"traitwatch verify {data.card.trait}")
    points = []
    for side in (evidence.held_out_pos, evidence.held_out_neg):
        scored = [(s, p) for s, p in zip(side.scores, side.projections, strict=True) if s is not None]
        points.append(([s for s, _ in scored], [p for _, p in scored]))
    if not points[0][0] and not points[1][0]:
        return Missing("The held-out answers have no judge scores.", f"traitwatch judge {data.card.trait}")
    return {
        "svg": Markup(plots.held_out_scatter(points[0], points[1], data.served_layer)),
        "at": _at(data.card, data.served_layer),
        "unscored": sum(s is None for s in (*evidence.held_out_pos.scores, *evidence.held_out_neg.scores)),
    }


def _vector(data: ReportData) -> dict[str, Any]:
    verification = data.card.verification
    layers = verification.layers if verification else []
    command = f"traitwatch verify {data.card.trait}"
    split: Any = Missing("The two halves of the questions have not been compared.", command)
    if any(layer.split_half_cosine is not None for layer in layers):
        split = Markup(plots.split_half_by_layer(layers, data.served_layer))
    has_null = any(layer.null_norm is not None for layer in layers)
    return {
        "norm": Markup(plots.norm_by_layer(data.norms, layers, data.served_layer)),
        "no_null": None if has_null else Missing("The null of the length has not been measured.", command),
        "split_half": split,
        "rows": layers,
    }


def _scores(data: ReportData) -> Any:
    card = data.card
    if not data.pos and not data.neg:
        return Missing("No file of judged answers lies beside the vector.", f"traitwatch judge {card.trait}")
    rows = []
    for name, answers, counts in (
        ("Extraction, positive", data.pos, lambda score, limit: score >= limit),
        ("Extraction, negative", data.neg, lambda score, limit: score < 100 - limit),
        ("Held out, positive", data.eval_pos, lambda score, limit: score >= limit),
        ("Held out, negative", data.eval_neg, lambda score, limit: score < 100 - limit),
    ):
        if answers:
            rows.append(_score_row(name, answers, card, counts))
    histograms: dict[str, Any] = {}
    for aspect, threshold in (("trait", card.threshold), ("coherence", card.coherence)):
        pos, neg = ([s for a in side if (s := getattr(a, aspect)) is not None] for side in (data.pos, data.neg))
        histograms[aspect] = (
            Markup(plots.score_histogram(f"{aspect}-scores", aspect, pos, neg, threshold))
            if pos or neg
            else Missing(f"The answers have no {aspect} scores.", f"traitwatch judge {card.trait}")
        )
    return {"histograms": histograms, "rows": rows}


def _score_row(
    name: str, answers: Sequence[JudgedAnswer], card: Card, counts: Callable[[float, float], bool]
) -> dict[str, Any]:
    trait = [a.trait for a in answers if a.trait is not None]
    coherence = [a.coherence for a in answers if a.coherence is not None]
    passing = None
    if card.threshold is not None and card.coherence is not None and trait:
        passing = sum(
            a.trait is not None
            and a.coherence is not None
            and counts(a.trait, card.threshold)
            and a.coherence >= card.coherence
            for a in answers
        )
    return {
        "name": name,
        "answers": len(answers),
        "trait": float(np.mean(trait)) if trait else None,
        "coherence": float(np.mean(coherence)) if coherence else None,
        "unscored": sum(a.trait is None for a in answers),
        "passing": passing,
    }


def _calibration(data: ReportData) -> Any:
    calibration = data.card.calibration
    if calibration is None:
        return Missing("The vector has no baseline.", f"traitwatch calibrate {data.card.trait}")
    layer = calibration.layers[data.served_layer]
    histogram: Any = Missing("The z of neutral tokens is not on file.", f"traitwatch calibrate {data.card.trait}")
    if data.evidence and (counted := data.evidence.neutral_z_histogram):
        histogram = Markup(plots.neutral_histogram(counted.edges, counted.counts, layer.thresholds))
    return {"all": calibration, "layer": layer, "histogram": histogram}


def _layers(card: Card) -> Any:
    choice = card.layer_choice
    if choice is None:
        return Missing("The layers have not been ranked by steering.", f"traitwatch layers {card.trait}")
    svg = {}
    if choice.steering:
        for aspect, floor in (("trait", None), ("coherence", choice.coherence_floor)):
            svg[aspect] = Markup(plots.steering_plot(f"steered-{aspect}", aspect, choice.steering, floor))
    return {"choice": choice, "svg": svg}


def _samples(data: ReportData) -> Any:
    """Return answers with a colour for each token; those of the CSVs, uncoloured, where no token was measured."""
    command = f"traitwatch verify {data.card.trait}"
    samples = list(data.evidence.samples) if data.evidence else []
    note = None
    if not samples:
        sides: tuple[tuple[Polarity, Sequence[JudgedAnswer]], ...] = (
            ("pos", data.eval_pos or data.pos),
            ("neg", data.eval_neg or data.neg),
        )
        for polarity, answers in sides:
            chosen = spread([answer.trait or 0.0 for answer in answers], 2)
            samples += [Sample(polarity=polarity, question=a.question, answer_tokens=[a.answer], projections=[None],
                               trait=a.trait, coherence=a.coherence) for a in (answers[i] for i in chosen)]  # fmt: skip
        note = Missing("The tokens' projections are not on file, so the answers are shown without colours.", command)
    if not samples:
        return Missing("There are no answers to show.", command)
    known = [p for sample in samples for p in sample.projections if p is not None]
    calibrated = data.card.calibration is not None
    if data.card.calibration is not None:
        mean, std = (lambda at: (at.mean, at.std))(data.card.calibration.layers[data.served_layer])
    else:
        mean, std = (float(np.mean(known)), max(float(np.std(known)), 1e-12)) if known else (0.0, 1.0)
    return {"groups": [
        (title, [_sample(sample, mean, std) for sample in samples if sample.polarity == polarity])
        for polarity, title in (("pos", "Positive condition"), ("neg", "Negative condition"))
    ], "note": note, "calibrated": calibrated, "coloured": bool(known)}  # fmt: skip


def _sample(sample: Sample, mean: float, std: float) -> dict[str, Any]:
    tokens = []
    z_values = []
    for text, projection in zip(sample.answer_tokens, sample.projections, strict=True):
        text = visible(text)
        if projection is None:
            tokens.append({"text": text, "title": "", "classes": ""})
            continue
        z = (projection - mean) / std
        z_values.append(z)
        step = min(STEPS, round(abs(z) / FULL_Z * STEPS))
        classes = f"{'p' if z > 0 else 'n'}{step}" if step else ""
        if abs(z) >= MARKED_Z:
            classes += " m"
        shown = text.replace("\n", "\u21b5")
        title = f"\u201c{shown}\u201d  projection {_number(projection)}  z {'+' if z > 0 else ''}{_number(z)}"
        tokens.append({"text": text, "title": title, "classes": classes.strip()})
    return {
        "sample": sample,
        "tokens": tokens,
        "mean_z": float(np.mean(z_values)) if z_values else None,
        "max_z": max(z_values) if z_values else None,
    }
