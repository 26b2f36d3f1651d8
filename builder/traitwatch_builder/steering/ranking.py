"""Ranks layers by how well they tell held-out answers apart, and by how well the trait is steered there.

The area under the ROC curve (AUC) comes from the card's verification. The effect of steering at a layer is a gain: the
mean trait score less that of the unsteered answers. Among the coefficients at which the answers stay coherent, the
highest gain counts.
"""

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import rankdata  # type: ignore[import-untyped]

from traitwatch.card import LayerChoice, LayerRank, SteeringResult, Verification
from traitwatch.vectors import DEFAULT_LAYER

COHERENCE_FLOOR = 50.0
# Where the unsteered answers are below the floor: the share of their coherence that steered answers must reach.
RELATIVE_FLOOR = 0.8
_BY_AUC = 6


@dataclass(frozen=True)
class Effect:
    """The effect of steering at a layer.

    Attributes:
        gain: mean trait score less that of the unsteered answers, points of 100; the highest among the coefficients at
            which the answers stay coherent.
        coefficient: the coefficient of this gain.
    """

    gain: float
    coefficient: float


def candidates(verification: Verification, num_layers: int, count: int = _BY_AUC) -> list[int]:
    """Return the layers worth steering: the inner layers of highest AUC, and the layer that servers read by default."""
    aucs = inner_aucs(verification, num_layers)
    best = sorted(aucs, key=lambda layer: (-aucs[layer], _from_middle(layer, num_layers), layer))[:count]
    served = {DEFAULT_LAYER} if num_layers > DEFAULT_LAYER else set()
    return sorted({*best, *served})


def inner_aucs(verification: Verification | None, num_layers: int) -> dict[int, float]:
    """Return the measured AUC of each inner layer: neither the embedding output nor the state after the final norm."""
    layers = verification.layers if verification is not None else []
    return {v.layer: v.auc for v in layers if v.auc is not None and 0 < v.layer < num_layers}


def coherence_floor(results: Iterable[SteeringResult], floor: float) -> float:
    """Return the least mean coherence of answers whose effect counts.

    This is `floor`; where the unsteered answers are below `floor`, it is `RELATIVE_FLOOR` of their coherence.
    """
    unsteered = _unsteered(results).coherence
    return floor if unsteered >= floor else RELATIVE_FLOOR * unsteered


def steering_effects(results: Sequence[SteeringResult], floor: float) -> dict[int, Effect]:
    """Return the effect of each layer at which answers stayed coherent (mean coherence `floor` or more)."""
    base = _unsteered(results).trait_score
    effects: dict[int, Effect] = {}
    for result in results:
        if result.coefficient == 0 or result.coherence < floor:
            continue
        effect = Effect(result.trait_score - base, result.coefficient)
        if result.layer not in effects or effect.gain > effects[result.layer].gain:
            effects[result.layer] = effect
    return effects


def _unsteered(results: Iterable[SteeringResult]) -> SteeringResult:
    return next(result for result in results if result.coefficient == 0)


def rank_layers(aucs: Mapping[int, float], effects: Mapping[int, Effect], num_layers: int) -> list[LayerRank]:
    """Return the layers, best first.

    Layers with an AUC and an effect come first. Each has a rank by AUC and a rank by effect among these layers (equal
    values share the mean of their ranks), and the mean of the two ranks decides; equal means are ordered by AUC, then
    by nearness to the middle of the model. The other layers follow, by AUC.

    Args:
        aucs: held-out AUC by layer, 0 to 1.
        effects: steering effect by layer.
        num_layers: decoder layers of the model.
    """
    both = sorted(set(aucs) & set(effects))
    by_auc = rankdata([-aucs[layer] for layer in both])
    by_effect = rankdata([-effects[layer].gain for layer in both])
    mean_rank = {layer: (a + e) / 2 for layer, a, e in zip(both, by_auc, by_effect, strict=True)}

    def place(layer: int) -> tuple[float, float, float, int]:
        auc = aucs.get(layer, -math.inf)
        return mean_rank.get(layer, math.inf), -auc, _from_middle(layer, num_layers), layer

    return [
        LayerRank(
            layer=layer,
            rank=rank,
            auc=aucs.get(layer),
            steering_effect=effects[layer].gain if layer in effects else None,
            coefficient=effects[layer].coefficient if layer in effects else None,
        )
        for rank, layer in enumerate(sorted({*aucs, *effects}, key=place), start=1)
    ]


def _from_middle(layer: int, num_layers: int) -> float:
    return abs(layer - num_layers / 2)


def choose(
    verification: Verification | None,
    results: Sequence[SteeringResult],
    num_layers: int,
    judge: str = "",
    floor: float = COHERENCE_FLOOR,
) -> LayerChoice | None:
    """Return the ranking of the inner layers; None where nothing was measured.

    Args:
        verification: verification of the vector, with the AUC by layer.
        results: mean scores by setting, with the setting of no steering; empty where steering was not measured.
        num_layers: decoder layers of the model.
        judge: name of the judge of the steered answers.
        floor: floor of coherence, 0 to 100; see `coherence_floor`.
    """
    used = coherence_floor(results, floor) if results else None
    effects = steering_effects(results, used) if used is not None else {}
    ranks = rank_layers(inner_aucs(verification, num_layers), effects, num_layers)
    if not ranks:
        return None
    return LayerChoice(
        ranks=ranks,
        steering=list(results),
        coherence_floor=used,
        judge=judge if results else "",
        date=datetime.datetime.now(tz=datetime.UTC).date(),
    )


def reason(choice: LayerChoice, *, better_than_null: bool = True) -> str:
    """Return why the first of the ranked layers is the best, for the card's `best_layer_reason`."""
    best = choice.ranks[0]
    auc = f"held-out AUC {best.auc:.3f}" if best.auc is not None else "no AUC"
    if best.steering_effect is not None:
        rivals = sum(r.auc is not None and r.steering_effect is not None for r in choice.ranks)
        text = (
            f"best of {rivals} layers by the mean of the ranks of {auc} and of steering effect "
            f"{best.steering_effect:+.1f} points at coefficient {best.coefficient:g} (judge: {choice.judge})"
            if best.auc is not None
            else f"highest steering effect ({best.steering_effect:+.1f} points); {auc} was measured"
        )
        if all((r.steering_effect or 0.0) <= 0 for r in choice.ranks):
            text += "; steering raised the trait score at no layer"
    else:
        why = "steering was not measured"
        if choice.coherence_floor is not None:
            why = f"no steered answers kept a mean coherence of {choice.coherence_floor:.0f}"
        text = f"highest {auc} of {len(choice.ranks)} inner layers; {why}"
    return text if better_than_null else f"{text}; the vector is no better than its null"
