"""Spikes: runs of tokens whose smoothed z stays above a threshold. The only implementation of a spike in Python.

The smoothing is an exponentially weighted mean over tokens, s_i = s_{i-1} + a (z_i - s_{i-1}), a = 2 / (window + 1).
It starts at the baseline's own mean (s_{-1} = 0), so that one loud first token is not a spike.

`SpikeDetector` works token by token and accepts missing tokens: the inspector finds spikes with it. `spike_runs` finds
the same spikes in a whole response at once: the server does so. `smooth` and `peak_level` work on whole responses and
many layers at once: calibration measures with them how often neutral responses have a spike. A test compares the ways.

The API process imports this module, so it imports no torch, and scipy only inside `smooth`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from traitwatch.vectors import Float64Array

WINDOW = 8
"""Tokens of the smoothing."""

MIN_TOKENS = 3
"""A shorter run above the threshold is not a spike."""

FULL_COLOUR_Z = 4.0
"""The z from which a token has the strongest colour: in the terminal, the inspector and the report."""

# Far above the differences of two ways to sum up the smoothed z, relative to the largest z, and far below any other.
_ROUNDING = 1e-11


@dataclass(frozen=True)
class Spike:
    """A spike.

    Attributes:
        start: index of its first token.
        end: index after its last token.
        peak_z: the highest z of a token in it (not smoothed).
    """

    start: int
    end: int
    peak_z: float


class SpikeDetector:
    """Finds the spikes of one response, token by token, in constant time and memory a token.

    Attributes:
        level: the smoothed z up to the last token.
    """

    def __init__(self, threshold: float, window: int = WINDOW, min_tokens: int = MIN_TOKENS):
        """Start before the first token.

        Args:
            threshold: a spike's smoothed z is above this.
            window: tokens of the smoothing.
            min_tokens: tokens of the shortest spike.
        """
        self.level = 0.0
        self._threshold = threshold
        self._weight = 2.0 / (window + 1)
        self._min_tokens = min_tokens
        self._count = 0
        # The first token of the present run above the threshold (None outside of a run), and the run's highest z.
        self._start: int | None = None
        self._peak = -math.inf

    def push(self, z: float) -> Spike | None:
        """Take the z of the next token, and return the spike that this token ended, if there is one.

        Args:
            z: NaN where the state is missing. NaN ends a spike and leaves the level as it is.
        """
        missing = math.isnan(z)
        if not missing:
            self.level += self._weight * (z - self.level)
        ended = None
        if self.level > self._threshold and not missing:
            if self._start is None:
                self._start, self._peak = self._count, z
            else:
                self._peak = max(self._peak, z)
        else:
            ended = self.finish()
        self._count += 1
        return ended

    def finish(self) -> Spike | None:
        """End the response, and return the spike that lasts to its end, if there is one."""
        start, self._start = self._start, None
        if start is None or self._count - start < self._min_tokens:
            return None
        return Spike(start, self._count, self._peak)


def find_spikes(
    z: Iterable[float | None], threshold: float, window: int = WINDOW, min_tokens: int = MIN_TOKENS
) -> list[Spike]:
    """Return the spikes of a response, in order.

    Args:
        z: z of each token; None or NaN where the state is missing.
        threshold: as of `SpikeDetector`, like the rest.
        window: tokens of the smoothing.
        min_tokens: tokens of the shortest spike.
    """
    detector = SpikeDetector(threshold, window, min_tokens)
    found = [*(detector.push(math.nan if value is None else value) for value in z), detector.finish()]
    return [spike for spike in found if spike is not None]


def spike_runs(
    z: Float64Array, threshold: float, window: int = WINDOW, min_tokens: int = MIN_TOKENS
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Float64Array]:
    """Return the spikes of a response, in order: exactly those of `find_spikes`, without work in Python for each token.

    Args:
        z: `[num_tokens]`, float64: z of each token; NaN where the state is missing.
        threshold: as of `find_spikes`, like the rest.
        window: tokens of the smoothing.
        min_tokens: tokens of the shortest spike.

    Returns:
        Of each spike the first token, the token after its last, and the highest z: three arrays `[num_spikes]`.
    """
    here = ~np.isnan(z)
    values = z[here]
    smoothed = smooth(values, window)
    # The last digits of the smoothed z depend on the order of the sums. Where they decide, `find_spikes` decides.
    close = _ROUNDING * max(1.0, abs(threshold), float(np.abs(values).max(initial=0.0)))
    if not (np.isfinite(close) and np.all(np.abs(smoothed - threshold) > close)):
        found = find_spikes(z.tolist(), threshold, window, min_tokens)
        bounds = np.array([(spike.start, spike.end) for spike in found], dtype=np.intp).reshape(-1, 2)
        return bounds[:, 0], bounds[:, 1], np.array([spike.peak_z for spike in found], dtype=np.float64)
    above = np.zeros(z.shape[0] + 2, dtype=bool)
    above[1:-1][here] = smoothed > threshold
    edges = np.flatnonzero(above[1:] != above[:-1]).reshape(-1, 2)
    edges = edges[edges[:, 1] - edges[:, 0] >= min_tokens]
    peaks: Float64Array = np.maximum.reduceat(np.append(z, -np.inf), edges.ravel())[::2] if len(edges) else np.empty(0)
    return edges[:, 0], edges[:, 1], peaks


def levels(z: Iterable[float | None]) -> list[float | None]:
    """Return the smoothed z up to each token, as `find_spikes` compares it with a threshold; None for a missing z."""
    detector = SpikeDetector(math.inf)
    smoothed: list[float | None] = []
    for value in z:
        if value is not None:
            detector.push(value)
        smoothed.append(None if value is None else detector.level)
    return smoothed


def smooth(z: npt.NDArray[Any], window: int = WINDOW) -> Float64Array:
    """Return the smoothed z up to each token.

    Args:
        z: `[..., num_tokens]`, any float: z of each token in order, all finite (a NaN spreads to all later tokens).
        window: tokens of the smoothing, at least 1 (which smooths nothing).

    Returns:
        As `z`, float64.
    """
    from scipy.signal import lfilter  # type: ignore[import-untyped]

    if z.shape[-1] == 0:
        return np.zeros(z.shape)
    weight = 2.0 / (window + 1)
    smoothed: Float64Array = lfilter([weight], [1.0, weight - 1.0], np.asarray(z, dtype=np.float64), axis=-1)
    return smoothed


def peak_level(z: npt.NDArray[Any], window: int = WINDOW, min_tokens: int = MIN_TOKENS) -> Float64Array:
    """Return the level below which any threshold would give the response a spike.

    A spike is a run of at least `min_tokens` tokens whose smoothed z is above the threshold. A response has a spike at
    threshold u exactly when u < max over i of min(s_i, ..., s_{i + min_tokens - 1}).

    Args:
        z: `[..., num_tokens]`, as of `smooth`.
        window: tokens of the smoothing.
        min_tokens: tokens of the shortest spike, at least 1.

    Returns:
        `[...]`, float64, in the unit of `z`; -inf where the response is too short to have a spike.
    """
    if z.shape[-1] < min_tokens:
        return np.full(z.shape[:-1], -np.inf)
    runs = np.lib.stride_tricks.sliding_window_view(smooth(z, window), min_tokens, axis=-1)
    level: Float64Array = runs.min(axis=-1).max(axis=-1)
    return level
