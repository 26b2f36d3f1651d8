"""What a response says of its traits, made from the projections of its token states.

A response of n tokens has n - 1 token states (the last token is sampled and never fed back), so its `tokens` has n
entries and the last is null. All of it is done for all traits at once: the work in Python grows with neither the traits
nor the tokens but where the answer itself does.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.signal  # type: ignore[import-untyped]  # noqa: F401  (smoothing would import it in the first response)

from builder.artifacts import Float32Array
from builder.smoothing import Float64Array, smooth
from server.config import ServedTrait
from server.spikes import THRESHOLD, find_spikes

# Decimals of a number in a response. bfloat16 keeps 3 significant digits, so 4 decimals lose nothing that was there.
_DECIMALS = 4


def token_values(projections: Float32Array) -> list[list[float | None]]:
    """Return projections as a response carries them: of each trait a list, null where a state is missing.

    Args:
        projections: `[num_traits, num_tokens]`, float32, units of the hidden state; NaN where there is no state.
    """
    return _rounded(projections.astype(np.float64))


def summary(
    traits: Sequence[ServedTrait], projections: Float32Array, prompt_last: Float32Array | None
) -> dict[str, dict[str, Any]]:
    """Return, by trait, the fields that speak of the response as a whole.

    Args:
        traits: the traits.
        projections: `[num_traits, num_tokens]`, float32, of all tokens of the response; NaN where there is no state.
        prompt_last: `[num_traits]`, float32, at the prompt's last position; None where there was no prompt.

    Returns:
        `mean` and `prompt_last` in units of the hidden state; `z`, `max_z` and the spikes' `peak_z` in standard
        deviations of the baseline, null (and no spikes) for a vector without calibration.
    """
    values = projections.astype(np.float64)
    baselines = [trait.vector.calibration(trait.layer) for trait in traits]
    mean_of = np.array([[b.mean if b else np.nan] for b in baselines])
    std_of = np.array([[b.std if b else np.nan] for b in baselines])
    z = (values - mean_of) / std_of
    with warnings.catch_warnings():
        # A response without a state, or a trait without calibration, has no mean: that is null, not a warning.
        warnings.simplefilter("ignore", RuntimeWarning)
        mean = np.nanmean(values, axis=1, keepdims=True) if values.shape[1] else np.full((len(traits), 1), np.nan)
        max_z = np.nanmax(z, axis=1, keepdims=True) if values.shape[1] else np.full((len(traits), 1), np.nan)
    last = np.full((len(traits), 1), np.nan) if prompt_last is None else prompt_last.astype(np.float64)[:, None]
    numbers = _rounded(np.concatenate([mean, (mean - mean_of) / std_of, max_z, last], axis=1))
    spiking = _may_spike(z)
    fields: dict[str, dict[str, Any]] = {}
    for i, trait in enumerate(traits):
        of_mean, of_z, of_max, of_last = numbers[i]
        spikes = find_spikes(z[i].tolist()) if spiking[i] else []
        fields[trait.name] = {
            "layer": trait.layer,
            "mean": of_mean,
            "z": of_z,
            "max_z": of_max,
            "prompt_last": of_last,
            "spikes": [{"start": s.start, "end": s.end, "peak_z": round(s.peak_z, _DECIMALS)} for s in spikes],
        }
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


def _may_spike(z: Float64Array) -> list[bool]:
    """Tell of each trait whether its smoothed z is ever above the threshold: `z` is `[num_traits, num_tokens]`.

    The last token has no state and is left out. Where another state is missing, the recursion of `server.spikes`
    decides.
    """
    states = z[:, :-1]
    missing = np.isnan(states)
    gaps = np.any(missing, axis=1)
    above = np.any(smooth(np.where(gaps[:, None], 0.0, states)) > THRESHOLD, axis=1)
    known: list[bool] = np.asarray(above | (gaps & ~np.all(missing, axis=1))).tolist()
    return known


def _rounded(values: Float64Array) -> list[list[float | None]]:
    """Round every value; NaN becomes None. `values`: two-dimensional."""
    rows: list[list[float | None]] = np.round(values, _DECIMALS).tolist()
    if not math.isnan(values.sum()):
        return rows
    for i in np.nonzero(np.isnan(values).any(axis=1))[0].tolist():
        rows[i] = [None if value != value else value for value in rows[i]]
    return rows
