"""What a response says of a trait, in the units the API promises."""

import numpy as np
import pytest

from server.scores import describe, summary, token_values
from tests.unit.traits import served_trait, uncalibrated

STATES = np.array([[3.0], [5.0], [1.0]], dtype=np.float32)
PROMPT_LAST = np.array([0.25], dtype=np.float32)


def test_z_is_in_standard_deviations_of_the_baseline() -> None:
    fields = summary(served_trait(mean=1.0, std=2.0), STATES, PROMPT_LAST)
    assert fields["mean"] == 3.0
    assert fields["z"] == 1.0
    assert fields["max_z"] == 2.0
    assert fields["prompt_last"] == 0.25
    assert fields["layer"] == 2


def test_an_uncalibrated_trait_has_projections_and_no_z() -> None:
    fields = summary(uncalibrated(served_trait()), STATES, PROMPT_LAST)
    assert fields["mean"] == 3.0
    assert fields["z"] is None
    assert fields["max_z"] is None
    assert fields["spikes"] == []


def test_a_response_without_states_has_no_mean() -> None:
    fields = summary(served_trait(), STATES[:0], PROMPT_LAST)
    assert fields["mean"] is None
    assert fields["z"] is None


def test_missing_states_are_null_and_left_out_of_the_mean() -> None:
    states = np.array([[3.0], [np.nan], [1.0]], dtype=np.float32)
    assert token_values(served_trait(), states) == [3.0, None, 1.0]
    assert summary(served_trait(), states, PROMPT_LAST)["mean"] == 2.0


def test_a_trait_reads_its_own_column() -> None:
    states = np.array([[1.0, 7.0]], dtype=np.float32)
    assert token_values(served_trait(column=1), states) == [7.0]


def test_sustained_high_z_is_reported_as_a_spike() -> None:
    states = np.array([[1.0]] * 5 + [[17.0]] * 6, dtype=np.float32)
    (spike,) = summary(served_trait(mean=1.0, std=2.0), states, PROMPT_LAST)["spikes"]
    assert spike["start"] == 6
    assert spike["end"] == 11
    assert spike["peak_z"] == pytest.approx(8.0)


def test_the_listing_tells_what_is_calibrated() -> None:
    listed = describe([served_trait("a"), uncalibrated(served_trait("b"))])
    assert listed[0]["calibration"] == {"mean": 1.0, "std": 2.0, "thresholds": []}
    assert listed[1]["calibration"] is None
