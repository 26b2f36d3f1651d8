"""A spike is a run above the threshold, for any length of the response."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traitwatch.spikes import Spike, SpikeDetector, find_spikes, levels, smooth, spike_runs

Z = st.lists(st.floats(-10, 10), max_size=60)


def naive(z: list[float], threshold: float, window: int, min_tokens: int) -> list[tuple[int, int]]:
    """Smooth by the closed form of the recursion, then look at every run."""
    a = 2 / (window + 1)
    smoothed = [sum(a * (1 - a) ** (i - j) * z[j] for j in range(i + 1)) for i in range(len(z))]
    above = [i for i, s in enumerate(smoothed) if s > threshold]
    starts = [i for i in above if i - 1 not in above]
    ends = [i + 1 for i in above if i + 1 not in above]
    return [(s, e) for s, e in zip(starts, ends, strict=True) if e - s >= min_tokens]


@given(Z, st.sampled_from([0.37, 1.13, 2.71]), st.integers(1, 12), st.integers(1, 5))
def test_spikes_are_those_of_the_definition(z: list[float], threshold: float, window: int, min_tokens: int) -> None:
    found = find_spikes(z, threshold, window, min_tokens)
    assert [(s.start, s.end) for s in found] == naive(z, threshold, window, min_tokens)
    for spike in found:
        assert spike.peak_z == max(z[spike.start : spike.end])


def test_a_missing_state_ends_a_spike_and_keeps_places() -> None:
    missing = float("nan")
    z = [6.0] * 6 + [missing] + [6.0] * 4
    assert [(s.start, s.end) for s in find_spikes(z, threshold=2, window=3, min_tokens=2)] == [(0, 6), (7, 11)]


def test_one_loud_token_is_not_a_spike() -> None:
    assert find_spikes([0, 0, 8, 0, 0, 0], threshold=2) == []


def test_a_spike_that_lasts_to_the_end_is_found() -> None:
    assert find_spikes([0.0] * 5 + [6.0] * 5, threshold=2, window=3, min_tokens=2) == [Spike(5, 10, 6.0)]


def test_the_token_after_a_spike_reports_it() -> None:
    detector = SpikeDetector(threshold=2, window=1, min_tokens=2)
    assert [detector.push(z) for z in (5.0, 4.0, 7.0)] == [None] * 3
    assert detector.push(0.0) == Spike(0, 3, 7.0)
    assert detector.push(0.0) is None
    assert [detector.push(z) for z in (3.0, 4.0)] == [None] * 2
    assert detector.finish() == Spike(5, 7, 4.0)
    assert detector.finish() is None


@given(Z, st.integers(0, 60))
def test_later_tokens_change_no_reported_spike(z: list[float], cut: int) -> None:
    whole, part = SpikeDetector(1.13), SpikeDetector(1.13)
    spikes = [part.push(value) for value in z[:cut]]
    assert [whole.push(value) for value in z][:cut] == spikes


@given(st.lists(st.one_of(st.none(), st.floats(-8, 8)), max_size=60), st.floats(-1, 4))
def test_a_missing_z_may_be_none_or_nan(z: list[float | None], threshold: float) -> None:
    assert find_spikes(z, threshold) == find_spikes([math.nan if value is None else value for value in z], threshold)


@given(st.lists(st.one_of(st.none(), st.floats(-8, 8)), max_size=60))
def test_levels_are_the_smoothed_z_of_the_present_tokens(z: list[float | None]) -> None:
    present = [value for value in z if value is not None]
    smoothed = levels(z)
    assert [level is None for level in smoothed] == [value is None for value in z]
    assert [level for level in smoothed if level is not None] == pytest.approx(smooth(np.array(present)).tolist())


@given(
    st.lists(st.one_of(st.floats(-10, 10), st.just(math.nan), st.sampled_from([1.13, 2.0])), max_size=80),
    st.one_of(st.floats(-5, 5), st.sampled_from([1.13, 2.0])),
    st.integers(1, 12),
    st.integers(1, 5),
)
def test_the_spikes_of_a_whole_response_are_those_found_token_by_token(
    z: list[float], threshold: float, window: int, min_tokens: int
) -> None:
    """To the last digit, also with gaps, and where the smoothed z is as high as the threshold."""
    starts, ends, peaks = spike_runs(np.array(z, dtype=np.float64), threshold, window, min_tokens)
    found = [Spike(*one) for one in zip(starts.tolist(), ends.tolist(), peaks.tolist(), strict=True)]
    assert found == find_spikes(z, threshold, window, min_tokens)


def test_a_level_that_rounds_to_the_threshold_is_decided_as_token_by_token() -> None:
    """A constant z comes up to itself in the limit, and the two sums round it differently."""
    z = np.full(400, 1.13)
    detector = SpikeDetector(math.inf)
    for value in z:
        detector.push(value)
    for threshold in (detector.level, math.nextafter(detector.level, 0), math.nextafter(detector.level, 9)):
        assert len(spike_runs(z, threshold)[0]) == len(find_spikes(z.tolist(), threshold))
