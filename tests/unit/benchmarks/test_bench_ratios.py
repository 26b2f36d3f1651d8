"""The verdict on a goal follows from the pairs, and claims no more than they prove."""

import numpy as np
import pytest

from tests.benchmarks.serving.ratios import CONFIDENCE, Goal, Ratio, Verdict, coverage, ratio_of

AT_LEAST, AT_MOST = Goal(0.99, at_least=True), Goal(1.01, at_least=False)


def ratio(low: float, high: float, pairs: int = 6) -> Ratio:
    return Ratio((low + high) / 2, low, high, coverage(pairs, 1), pairs)


@pytest.mark.parametrize(
    ("goal", "low", "high", "verdict"),
    [
        (AT_LEAST, 0.991, 1.020, Verdict.MET),
        (AT_LEAST, 0.990, 0.990, Verdict.MET),
        (AT_LEAST, 0.970, 1.020, Verdict.UNDECIDED),
        (AT_LEAST, 0.930, 0.989, Verdict.NOT_MET),
        (AT_MOST, 0.900, 1.010, Verdict.MET),
        (AT_MOST, 0.990, 1.020, Verdict.UNDECIDED),
        (AT_MOST, 1.011, 1.020, Verdict.NOT_MET),
    ],
)
def test_the_side_of_the_bound_decides(goal: Goal, low: float, high: float, verdict: Verdict) -> None:
    assert goal.verdict(ratio(low, high)) == verdict


def test_four_pairs_decide_nothing_and_five_do() -> None:
    assert AT_LEAST.verdict(ratio_of([1.1] * 4)) == Verdict.TOO_FEW
    assert AT_LEAST.verdict(ratio_of([1.1] * 5)) == Verdict.MET


def test_few_pairs_give_their_extremes_and_many_do_not() -> None:
    six = ratio_of([1.03, 0.97, 1.0, 1.01, 0.99, 1.04])
    assert (six.median, six.low, six.high, six.pairs) == (1.005, 0.97, 1.04, 6)
    assert six.coverage == 0.96875
    three = ratio_of([1.2, 0.9, 1.0])
    assert (three.low, three.high, three.enough) == (0.9, 1.2, False)
    twenty = ratio_of([float(value) for value in range(20)])
    assert (twenty.low, twenty.high) == (5.0, 14.0)
    assert twenty.coverage >= CONFIDENCE


@pytest.mark.parametrize("pairs", [5, 8, 15])
def test_the_interval_has_the_true_median_with_the_stated_probability(pairs: int) -> None:
    # Skewed noise around a median of 1.
    draws = np.exp(np.random.default_rng(3).standard_exponential((4000, pairs)) - np.log(2))
    intervals = [ratio_of(row.tolist()) for row in draws]
    share = np.mean([one.low <= 1.0 <= one.high for one in intervals])
    assert share == pytest.approx(intervals[0].coverage, abs=0.015)
