"""Ratios of pairs, their interval, and what may be said of a goal.

The interval is that of the sign test: with n pairs, the k-th smallest and k-th largest ratio enclose the true median
with a probability that follows from the binomial distribution alone, whatever the noise looks like. k is the largest
that keeps `CONFIDENCE`; for 5 to 7 pairs that is 1, so the interval goes from the smallest to the largest ratio.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

# 5 pairs reach 0.9375 and 6 pairs 0.96875; no interval of 4 pairs or fewer does.
CONFIDENCE = 0.93


class Verdict(StrEnum):
    """What the pairs say of a goal."""

    MET = "met"
    NOT_MET = "not met"
    UNDECIDED = "cannot be told from noise here"
    TOO_FEW = "too few pairs to say"


@dataclass(frozen=True)
class Ratio:
    """The ratios of some pairs.

    Attributes:
        median: their median.
        low, high: ends of the interval for the true median.
        coverage: the probability with which the interval holds it.
        pairs: how many there were.
    """

    median: float
    low: float
    high: float
    coverage: float
    pairs: int

    @property
    def enough(self) -> bool:
        """Whether the interval has the confidence that a verdict needs."""
        return self.coverage >= CONFIDENCE


@dataclass(frozen=True)
class Goal:
    """A bound for the median of a ratio.

    Attributes:
        bound: the worst ratio that is allowed.
        at_least: whether more is better.
    """

    bound: float
    at_least: bool

    def verdict(self, ratio: Ratio) -> Verdict:
        """Judge: an interval on one side of the bound decides, one that straddles it does not."""
        if not ratio.enough:
            return Verdict.TOO_FEW
        worst, best = (ratio.low, ratio.high) if self.at_least else (ratio.high, ratio.low)
        if self._holds(worst):
            return Verdict.MET
        return Verdict.UNDECIDED if self._holds(best) else Verdict.NOT_MET

    def _holds(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.bound:g}"


def ratio_of(values: Sequence[float]) -> Ratio:
    """Return median and interval of one ratio a pair, at least one."""
    ordered = sorted(values)
    rank = max((k for k in range(1, len(ordered) // 2 + 1) if coverage(len(ordered), k) >= CONFIDENCE), default=1)
    return Ratio(
        median=statistics.median(ordered),
        low=ordered[rank - 1],
        high=ordered[-rank],
        coverage=coverage(len(ordered), rank),
        pairs=len(ordered),
    )


def coverage(pairs: int, rank: int) -> float:
    """Return how likely the `rank`-th smallest and largest of `pairs` values enclose the true median."""
    return 1 - sum(math.comb(pairs, i) for i in range(rank)) * 0.5 ** (pairs - 1)
