"""Builder and server have the same definition of a spike."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traitwatch import spikes
from traitwatch.spikes import MIN_TOKENS, WINDOW, peak_level, smooth

Z = st.lists(st.floats(-10, 10), max_size=60)


def recursion(z: list[float], window: int) -> list[float]:
    smoothed, level = [], 0.0
    for value in z:
        level += 2 / (window + 1) * (value - level)
        smoothed.append(level)
    return smoothed


@settings(deadline=None)  # the first call imports scipy
@given(Z, st.integers(1, 12))
def test_smoothing_is_the_recursion(z: list[float], window: int) -> None:
    assert smooth(np.array(z), window).tolist() == pytest.approx(recursion(z, window), abs=1e-12)


@settings(deadline=None)
@given(Z, st.floats(-3, 3), st.integers(1, 12), st.integers(1, 5))
def test_a_response_has_a_spike_exactly_below_its_peak_level(
    z: list[float], offset: float, window: int, min_tokens: int
) -> None:
    level = float(peak_level(np.array(z), window, min_tokens))
    # The recursion and the filter round differently. A threshold exactly at the level decides nothing.
    threshold = level + offset if abs(offset) > 1e-9 and np.isfinite(level) else offset + 1e-6
    if abs(threshold - level) > 1e-9:
        assert bool(spikes.find_spikes(z, threshold, window, min_tokens)) == (threshold < level)


def test_a_threshold_at_the_peak_level_gives_no_spike() -> None:
    z = [4.0] * 6  # Window 1 is no smoothing, so nothing is rounded.
    level = float(peak_level(np.array(z), window=1, min_tokens=3))
    assert level == 4.0
    assert spikes.find_spikes(z, level, 1, 3) == []
    assert spikes.find_spikes(z, np.nextafter(level, 0), 1, 3)


def test_layers_are_smoothed_each_for_itself() -> None:
    z = np.random.default_rng(0).standard_normal((3, 2, 40))
    assert smooth(z).shape == z.shape
    assert peak_level(z).shape == (3, 2)
    for i in range(3):
        for j in range(2):
            assert smooth(z)[i, j] == pytest.approx(smooth(z[i, j]), abs=1e-12)
            assert peak_level(z)[i, j] == peak_level(z[i, j])


@pytest.mark.parametrize("length", [0, 1, 2])
def test_a_response_shorter_than_a_spike_has_none(length: int) -> None:
    assert peak_level(np.full((4, length), 9.0)).tolist() == [-np.inf] * 4


def test_the_server_finds_spikes_with_the_constants_of_the_calibration() -> None:
    assert (spikes.WINDOW, spikes.MIN_TOKENS) == (WINDOW, MIN_TOKENS)


def test_the_server_imports_neither_torch_nor_scipy_with_it() -> None:
    code = "import sys, traitwatch.spikes; sys.exit(any(name in sys.modules for name in ('torch', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
