"""What a response says of its traits, made from the projections of its token states.

A response of n tokens has n - 1 token states (the last token is sampled and never fed back), so its `tokens` has n
entries and the last is null.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from builder.artifacts import Float32Array
from server.config import ServedTrait
from server.spikes import find_spikes

# Decimals of a number in a response. bfloat16 keeps 3 significant digits, so 4 decimals lose nothing that was there.
_DECIMALS = 4


def token_values(trait: ServedTrait, states: Float32Array) -> list[float | None]:
    """Return a trait's projections of token states, as a response carries them.

    Args:
        trait: the trait.
        states: `[num_states, num_columns]`, float32, units of the hidden state; NaN where a row is missing.
    """
    return [_rounded(value) for value in states[:, trait.column].tolist()]


def summary(trait: ServedTrait, states: Float32Array, prompt_last: Float32Array) -> dict[str, Any]:
    """Return the fields of a trait that speak of the response as a whole.

    Args:
        trait: the trait.
        states: `[num_states, num_columns]`, float32, all token states of the response.
        prompt_last: `[num_columns]`, float32, the state at the prompt's last position.

    Returns:
        `mean` and `prompt_last` in units of the hidden state; `z`, `max_z` and the spikes' `peak_z` in standard
        deviations of the baseline, null (and no spikes) for a vector without calibration.
    """
    values = states[:, trait.column].astype(np.float64)
    mean = None if np.isnan(values).all() else float(np.nanmean(values))
    fields: dict[str, Any] = {"layer": trait.layer, "mean": _rounded(mean), "z": None, "max_z": None}
    fields["prompt_last"] = _rounded(float(prompt_last[trait.column]))
    fields["spikes"] = []
    baseline = trait.vector.calibration(trait.layer)
    if baseline is not None and mean is not None:
        z = (values - baseline.mean) / baseline.std
        fields["z"] = _rounded((mean - baseline.mean) / baseline.std)
        fields["max_z"] = _rounded(float(np.nanmax(z)))
        fields["spikes"] = [
            {"start": s.start, "end": s.end, "peak_z": _rounded(s.peak_z)} for s in find_spikes(z.tolist())
        ]
    return fields


def describe(traits: Sequence[ServedTrait]) -> list[dict[str, Any]]:
    """Return what `GET /v1/traits` says of the loaded traits."""
    described = []
    for trait in traits:
        card = trait.vector.card
        baseline = trait.vector.calibration(trait.layer)
        described.append(
            {
                "id": trait.name,
                "object": "trait",
                "layer": trait.layer,
                "description": card.description if card else "",
                "sha256": card.sha256 if card else None,
                "calibration": baseline.model_dump() if baseline else None,
                "calibration_date": card.calibration.date.isoformat() if card and card.calibration else None,
            }
        )
    return described


def _rounded(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else round(value, _DECIMALS)
