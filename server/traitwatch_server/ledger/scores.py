"""The scores of an answer, made from the projections of its token states.

A response of n tokens has n - 1 token states: the last token is sampled and never fed back. So the projections have n
columns, and the last column is NaN. Every number is computed for all traits at once, in numpy: the work in Python grows
with neither the number of traits nor the number of tokens. `traitwatch_server.responses` makes the JSON fields.
"""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.signal  # type: ignore[import-untyped]  # noqa: F401  (otherwise `smooth` would import it in the first response)

from traitwatch.spikes import Spike, find_spikes, smooth
from traitwatch.vectors import Float32Array, Float64Array
from traitwatch_server.traits import ServedTrait


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of one answer. Each number is computed when it is first read.

    Attributes:
        traits: the traits.
        projections: `[num_traits, num_tokens]`, float32, units of the hidden state; NaN where there is no state.
        prompt_last: `[num_traits]`, float32, at the prompt's last position; NaN where there is none.
    """

    traits: tuple[ServedTrait, ...]
    projections: Float32Array
    prompt_last: Float32Array

    @cached_property
    def z(self) -> Float64Array:
        """`[num_traits, num_tokens]`, standard deviations of the baseline; NaN without a state or calibration."""
        return (self.projections - self._baseline[:, :1]) / self._baseline[:, 1:]

    @cached_property
    def mean(self) -> Float64Array:
        """`[num_traits]`, float64, mean over the token states, units of the hidden state; NaN without one."""
        return _over_states(np.nanmean, self.projections.astype(np.float64))

    @cached_property
    def mean_z(self) -> Float64Array:
        """`[num_traits]`, the same in standard deviations of the baseline; NaN without calibration."""
        z: Float64Array = (self.mean - self._baseline[:, 0]) / self._baseline[:, 1]
        return z

    @cached_property
    def max_z(self) -> Float64Array:
        """`[num_traits]`, z of the highest token; NaN without a state or calibration."""
        return _over_states(np.nanmax, self.z)

    @cached_property
    def spikes(self) -> tuple[tuple[Spike, ...], ...]:
        """Of each trait its spikes; none for a trait without threshold."""
        found: list[tuple[Spike, ...]] = [()] * len(self.traits)
        for i in self._may_spike():
            threshold = self.traits[i].threshold
            assert threshold is not None
            found[i] = tuple(find_spikes(self.z[i].tolist(), threshold.z))
        return tuple(found)

    @cached_property
    def _baseline(self) -> Float64Array:
        """Mean and standard deviation of each trait's baseline: `[num_traits, 2]`, NaN without calibration."""
        return np.array([trait.baseline for trait in self.traits], dtype=np.float64).reshape(-1, 2)

    def _may_spike(self) -> list[int]:
        """Return the traits that may have a spike: those whose smoothed z is above the threshold at some token.

        The last token has no state and is left out. A trait with another missing state is returned too, unless all of
        its states are missing: `find_spikes` decides.
        """
        thresholds = np.array([t.threshold.z if t.threshold is not None else np.inf for t in self.traits])
        states = self.z[:, :-1]
        missing = np.isnan(states)
        gaps = np.any(missing, axis=1)
        above = np.any(smooth(np.where(gaps[:, None], 0.0, states)) > thresholds[:, None], axis=1)
        possible = (above & ~gaps) | (gaps & ~np.all(missing, axis=1) & np.isfinite(thresholds))
        places: list[int] = np.flatnonzero(possible).tolist()
        return places


def _over_states(reduce: Any, values: Float64Array) -> Float64Array:
    """Reduce `[num_traits, num_tokens]` over the states that are there; NaN where there is none."""
    if not values.shape[1]:
        return np.full(values.shape[0], np.nan)
    with warnings.catch_warnings():
        # A response without a state, or a trait without calibration, has no mean: that is null, not a warning.
        warnings.simplefilter("ignore", RuntimeWarning)
        reduced: Float64Array = reduce(values, axis=1)
    return reduced
