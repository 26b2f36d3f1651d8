"""Computes docs/images/figures.json: the numbers that the texts quote, from the same data as the figures."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from traitwatch.card import Card
from traitwatch_builder.vectors.verify import auc, correlation

from .data import LAYER, SHOWN_TRAIT, Measured, TraitMeans

# A card comes from the same files on another day: float32 sums differ in the last digits.
_TOLERANCE = 2e-3


def numbers(measured: Measured, cards: Mapping[str, Card]) -> dict[str, Any]:
    """Return the numbers, rounded.

    Raises:
        RuntimeError: the measurements belong to other vectors than the cards, or contradict the cards.
    """
    return {
        "model": measured.model,
        "layer": LAYER,
        "traits": {trait: _trait(measured.means[trait], card) for trait, card in cards.items()},
        "two_answers": {
            "trait": SHOWN_TRAIT,
            "seed": measured.seed,
            "threshold": round(threshold(cards[SHOWN_TRAIT]), 2),
            "answers": {
                title: {
                    "tokens": len(answer.tokens),
                    **{field: round(getattr(answer, field), 2) for field in ("mean", "z", "max_z")},
                    "spikes": [spike.model_dump() for spike in answer.spikes],
                }
                for title, answer in measured.served.items()
            },
        },
    }


def _trait(means: TraitMeans, card: Card) -> dict[str, Any]:
    verification = card.verification
    if verification is None or means.sha256 != card.sha256:
        raise RuntimeError(f"{card.trait}: the card is another vector's; run `python -m scripts.figures measure`")
    rows = verification.layers
    served = rows[LAYER]
    best = max(rows[1:-1], key=lambda row: row.auc or 0.0)
    pos, neg = np.array(means.pos.z), np.array(means.neg.z)
    measured = {
        "auc": auc(means.pos.z, means.neg.z),
        "correlation": correlation(np.concatenate([pos, neg]), [*means.pos.scores, *means.neg.scores]),
        "correlation_pos": correlation(pos, means.pos.scores),
        "correlation_neg": correlation(neg, means.neg.scores),
    }
    for name, value in measured.items():
        carded = getattr(served, name)
        if carded is None or value is None or abs(carded - value) > _TOLERANCE:
            raise RuntimeError(f"{card.trait}: {name} is {value} as measured, but {carded} in the card")
    judged = {side: [s for s in getattr(means, side).scores if s is not None] for side in ("pos", "neg")}
    return {
        **{name: _round(value) for name, value in measured.items()},
        "auc_layer_0": _round(rows[0].auc),
        "auc_highest": _round(best.auc),
        "auc_highest_layer": best.layer,
        "null_auc": _round(served.null_auc),
        "held_out_pos": len(pos),
        "held_out_neg": len(neg),
        "neutral_answers": len(means.neutral),
        "mean_z": {name: _round(float(np.mean(values))) for name, values in groups(means).items()},
        "sd_z": {name: _round(float(np.std(values, ddof=1))) for name, values in groups(means).items()},
        "mean_score": {side: _round(float(np.mean(scores)), 1) for side, scores in judged.items()},
        "sd_score": {side: _round(float(np.std(scores, ddof=1)), 1) for side, scores in judged.items()},
    }


def groups(means: TraitMeans) -> dict[str, list[float]]:
    """Return z of the answers: to neutral prompts, under the negative and under the positive condition."""
    return {"neutral": means.neutral, "neg": means.neg.z, "pos": means.pos.z}


def threshold(card: Card) -> float:
    """Return the smoothed z above which 1 % of neutral answers spike, at layer `LAYER`."""
    if card.calibration is None:
        raise RuntimeError(f"{card.trait}: the shipped card has no calibration")
    return next(spike.z for spike in card.calibration.layers[LAYER].thresholds if spike.rate == 0.01)


def _round(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(value, digits) + 0.0  # no -0.0
