"""Spikes: runs of tokens whose smoothed z stays above a threshold.

The smoothing is an exponentially weighted mean over tokens, s_i = s_{i-1} + a (z_i - s_{i-1}), a = 2 / (window + 1),
started at the baseline's own mean (0), so that one loud first token is not a spike. `builder.smoothing` does the same
for calibration, over whole responses; the two are tested against each other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from builder.smoothing import MIN_TOKENS, WINDOW

THRESHOLD = 2.0


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


def find_spikes(
    z: Sequence[float], threshold: float = THRESHOLD, window: int = WINDOW, min_tokens: int = MIN_TOKENS
) -> list[Spike]:
    """Return the spikes of a response, in order.

    Args:
        z: z of each token state; NaN, where a state is missing, ends a spike and does not count.
        threshold: the smoothed z must be above this.
        window: tokens of the smoothing.
        min_tokens: a shorter run is not a spike.
    """
    spikes: list[Spike] = []
    weight = 2.0 / (window + 1)
    smoothed = 0.0
    start: int | None = None
    for i, value in enumerate(z):
        missing = math.isnan(value)
        if not missing:
            smoothed += weight * (value - smoothed)
        if smoothed > threshold and not missing:
            start = i if start is None else start
        elif start is not None:
            spikes.append(Spike(start, i, max(z[start:i])))
            start = None
    if start is not None:
        spikes.append(Spike(start, len(z), max(z[start:])))
    return [spike for spike in spikes if spike.end - spike.start >= min_tokens]
