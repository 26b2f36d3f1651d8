"""Ratios of pairs, the interval of their median, and the verdict on a goal.

The interval is that of the sign test. With n pairs, the k-th smallest and the k-th largest ratio enclose the true
median with a probability that follows from the binomial distribution only, for any noise. k is the largest number that
keeps `CONFIDENCE`. For 5 to 7 pairs, k is 1: the interval goes from the smallest to the largest ratio.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

# 5 pairs reach 0.9375 and 6 pairs 0.96875. No interval of 4 pairs or fewer reaches CONFIDENCE.
CONFIDENCE = 0.93


class Verdict(StrEnum):
    """What the pairs prove about a goal."""

    MET = "met"
    NOT_MET = "not met"
    UNDECIDED = "cannot be told from noise here"
    TOO_FEW = "too few pairs to say"


@dataclass(frozen=True)
class Ratio:
    """The ratios of some pairs.

    Attributes:
        median: the median of the ratios.
        low, high: ends of the interval for the true median.
        coverage: the probability that the interval holds the true median.
        pairs: the number of pairs.
    """

    median: float
    low: float
    high: float
    coverage: float
    pairs: int

    @property
    def enough(self) -> bool:
        """Whether the interval has enough confidence for a verdict."""
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
        """Return the verdict. It is decided if the interval is on one side of the bound."""
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
    """Return median and interval of the ratios: one for each pair, at least one."""
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
    """Return the probability that the `rank`-th smallest and largest of `pairs` values enclose the true median."""
    return 1 - sum(math.comb(pairs, i) for i in range(rank)) * 0.5 ** (pairs - 1)
