"""Spikes: runs of tokens whose smoothed z stays above a threshold.

The smoothing is an exponentially weighted mean over tokens, s_i = s_{i-1} + a (z_i - s_{i-1}), a = 2 / (window + 1),
started at the baseline's own mean (0), so that one loud first token is not a spike. `traitwatch.smoothing` does the same
for calibration, over whole responses; the two are tested against each other.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from traitwatch.smoothing import MIN_TOKENS, WINDOW


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

    Args of the constructor:
        threshold: the smoothed z must be above this.
        window: tokens of the smoothing.
        min_tokens: a shorter run is not a spike.
    """

    def __init__(self, threshold: float, window: int = WINDOW, min_tokens: int = MIN_TOKENS):
        self._threshold = threshold
        self._weight = 2.0 / (window + 1)
        self._min_tokens = min_tokens
        self._smoothed = 0.0
        self._count = 0
        # Of the run above the threshold that is under way: its first token (None outside of one), its highest z.
        self._start: int | None = None
        self._peak = -math.inf

    def push(self, z: float) -> Spike | None:
        """Take the next token's z, and return the spike that it ended, if it did.

        Args:
            z: NaN, where the state is missing, ends a spike and does not count.
        """
        missing = math.isnan(z)
        if not missing:
            self._smoothed += self._weight * (z - self._smoothed)
        ended = None
        if self._smoothed > self._threshold and not missing:
            if self._start is None:
                self._start, self._peak = self._count, z
            else:
                self._peak = max(self._peak, z)
        else:
            ended = self.finish()
        self._count += 1
        return ended

    def finish(self) -> Spike | None:
        """End the response, and return the spike that lasts to its end, if one does."""
        start, self._start = self._start, None
        if start is None or self._count - start < self._min_tokens:
            return None
        return Spike(start, self._count, self._peak)


def find_spikes(
    z: Iterable[float], threshold: float, window: int = WINDOW, min_tokens: int = MIN_TOKENS
) -> list[Spike]:
    """Return the spikes of a response, in order; `z` and the rest are as of `SpikeDetector`."""
    detector = SpikeDetector(threshold, window, min_tokens)
    found = [*map(detector.push, z), detector.finish()]
    return [spike for spike in found if spike is not None]
