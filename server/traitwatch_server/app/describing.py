"""What `GET /v1/traits` says of the loaded traits: where each is read, what it is worth, how alike they are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from traitwatch_server.responses.schema import TraitInfo, TraitVerification
from traitwatch_server.traits import ServedTrait

_DECIMALS = 4


def describe(traits: Sequence[ServedTrait]) -> list[TraitInfo]:
    """Return what is said of each of the loaded traits."""
    cosines = _cosines(traits)
    described: list[TraitInfo] = []
    for trait in traits:
        card = trait.vector.card
        baseline = trait.vector.calibration(trait.layer)
        described.append(
            {
                "id": trait.name,
                "object": "trait",
                "layer": trait.layer,
                "description": card.description if card else "",
                "sha256": trait.vector.sha256,
                "threshold": {"z": trait.threshold.z, "rate": trait.threshold.rate} if trait.threshold else None,
                "calibration": baseline,
                "calibration_date": card.calibration.date.isoformat() if card and card.calibration else None,
                "verification": _verification(trait),
                "cosines": cosines[trait.name],
                "report": f"/v1/traits/{trait.name}/report" if report_of(trait).is_file() else None,
            }
        )
    return described


def report_of(trait: ServedTrait) -> Path:
    """Return where the trait's report is, if it has one: beside its vector."""
    return trait.vector.path.with_name(f"{trait.name}.html")


def _verification(trait: ServedTrait) -> TraitVerification | None:
    """Return what is known of the vector's worth on held-out answers; None where nothing is."""
    card = trait.vector.card
    if card is None or card.verification is None:
        return None
    at_layer = next((known for known in card.verification.layers if known.layer == trait.layer), None)
    return {
        "auc": at_layer.auc if at_layer else None,
        "best_layer": card.best_layer,
        "better_than_null": card.verification.better_than_null,
        "verdict": card.verification.verdict,
    }


def _cosines(traits: Sequence[ServedTrait]) -> dict[str, dict[str, float]]:
    """Return of each trait the cosines with the others that are read at the same layer."""
    directions = {trait.name: trait.vector.direction(trait.layer) for trait in traits}
    return {
        one.name: {
            other.name: round(float(np.dot(directions[one.name], directions[other.name])), _DECIMALS)
            for other in traits
            if other.layer == one.layer and other.name != one.name
        }
        for one in traits
    }
