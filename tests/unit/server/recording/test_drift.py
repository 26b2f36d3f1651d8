"""The drift of the traffic: a shift is found soon, and ordinary traffic has no drift."""

import numpy as np
import pytest

from traitwatch.vectors import Float64Array
from traitwatch_server.recording.drift import ALLOWANCE, CUSUM_CAP, WARM_UP, Drift

ONE = np.array([0])
# The alert's threshold for drift.
LIMIT = 15.0


def fed(x: Float64Array, seconds_apart: float = 1.0, drift: Drift | None = None, start: float = 0.0) -> Drift:
    """Return the drift of one trait after responses with mean z `x`."""
    drift = drift or Drift(1)
    for i, value in enumerate(x):
        drift.update(ONE, np.array([value]), start + i * seconds_apart)
    return drift


def normal(count: int, mean: float = 0.0, std: float = 1.0, seed: int = 0) -> Float64Array:
    return np.random.default_rng(seed).normal(mean, std, count)


@pytest.mark.parametrize("seconds_apart", [0.01, 1.0, 60.0])
def test_ordinary_traffic_is_no_drift_at_any_speed(seconds_apart: float) -> None:
    drift = Drift(1)
    highest = 0.0
    for i, value in enumerate(normal(20_000, mean=0.7, std=0.4)):
        drift.update(ONE, np.array([value]), i * seconds_apart)
        highest = max(highest, drift.cusum_up[0], drift.cusum_down[0])
    assert highest < LIMIT
    assert abs(drift.drift()[0]) < 5


@pytest.mark.parametrize(("shift", "up"), [(1.0, True), (-1.0, False)])
def test_a_shift_of_one_standard_deviation_is_found_within_a_hundred_responses(shift: float, *, up: bool) -> None:
    drift = fed(normal(2000, mean=0.7, std=0.4))
    fed(normal(100, mean=0.7 + 0.4 * shift, std=0.4, seed=1), drift=drift, start=2000)
    risen, other = (drift.cusum_up, drift.cusum_down) if up else (drift.cusum_down, drift.cusum_up)
    assert risen[0] > LIMIT > other[0]
    assert drift.drift()[0] * (1 if up else -1) > 4


def test_a_shift_that_is_over_is_forgotten() -> None:
    drift = fed(normal(2000))
    fed(normal(500, mean=2.0, seed=1), drift=drift, start=2000)
    assert drift.cusum_up[0] == CUSUM_CAP
    fed(normal(200, seed=2), drift=drift, start=2500)
    assert drift.cusum_up[0] < LIMIT


def test_a_busy_server_does_not_forget_its_baseline() -> None:
    """The responses within a fast window have little weight beside the slow window, even if they are many."""
    drift = fed(normal(20_000), 0.01, Drift(1, fast_seconds=1.0, slow_seconds=100.0))
    fed(normal(500, mean=1.0, seed=1), 0.01, drift, start=200.0)
    assert drift.ewma[0] == pytest.approx(1.0, abs=0.2)
    assert abs(drift._slow.mean[0]) < 0.1
    assert drift.drift()[0] > 10


def test_one_response_is_no_drift() -> None:
    drift = fed(normal(2000))
    before = drift.cusum_up[0]
    fed(np.array([1e6]), drift=drift, start=2000)
    assert drift.cusum_up[0] <= before + 4 - ALLOWANCE


def test_there_is_no_drift_before_the_baseline_is_known() -> None:
    drift = fed(np.array([0.0, 100.0] * (WARM_UP // 2)))
    assert drift.cusum_up[0] == drift.cusum_down[0] == 0.0
    assert fed(normal(WARM_UP - 1)).drift()[0] == 0.0
    assert fed(normal(WARM_UP)).drift()[0] != 0.0


def test_the_means_are_weighted_by_age() -> None:
    x, at = normal(50), np.cumsum(np.random.default_rng(1).exponential(100.0, 50))
    drift = Drift(1, fast_seconds=300.0)
    for value, now in zip(x, at, strict=True):
        drift.update(ONE, np.array([value]), now)
    weights = np.exp((at - at[-1]) / 300.0)
    mean = np.average(x, weights=weights)
    assert drift.ewma[0] == pytest.approx(mean)
    assert drift._fast.squared_error()[0] == pytest.approx((weights**2).sum() / weights.sum() ** 2)


def test_traits_do_not_mix_and_may_come_later() -> None:
    drift = Drift(1)
    fed(normal(10, mean=3), drift=drift)
    drift.grow(3)
    drift.update(np.array([2]), np.array([5.0]), 100.0)
    assert drift.ewma.tolist() == [pytest.approx(normal(10, mean=3).mean(), abs=0.1), 0.0, 5.0]
    drift.forget(np.array([0]))
    assert drift.ewma.tolist() == [0.0, 0.0, 5.0]
