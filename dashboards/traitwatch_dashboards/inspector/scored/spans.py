"""The smoothed z of a text, and the spikes of one scored as a prompt, where the server tells projections alone.

A token without z is None here, as in JSON, and NaN to `traitwatch.spikes`, whose rule it is.
"""

import math
from collections.abc import Iterable

from traitwatch.smoothing import WINDOW
from traitwatch.spikes import Spike, find_spikes


def smoothed(z: Iterable[float | None]) -> list[float | None]:
    """Return the smoothed z up to each token; None where a token has no z, which does not count."""
    level = 0.0
    found: list[float | None] = []
    for value in z:
        if value is not None:
            level += 2.0 / (WINDOW + 1) * (value - level)
        found.append(None if value is None else level)
    return found


def find_spans(z: Iterable[float | None], threshold: float) -> list[Spike]:
    """Return the spikes of a text, in order; a token without z ends one."""
    return find_spikes((math.nan if value is None else value for value in z), threshold)
