"""The score fields of a response, in the units that the API promises."""

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.scores import scores_of
from tests.support.traits import served_trait, uncalibrated
from traitwatch.spikes import find_spikes
from traitwatch.vectors import Float32Array
from traitwatch_server.pacing import at_once
from traitwatch_server.responses.answer_scores import summaries, token_values
from traitwatch_server.responses.long_lists import LongLists
from traitwatch_server.traits import ServedTrait

PROMPT_LAST = np.array([0.25], dtype=np.float32)


def projections(*values: float) -> Float32Array:
    """Return the projections of a response for one trait. The last token has no state."""
    return np.array([[*values, np.nan]], dtype=np.float32)


def summarised(
    traits: Sequence[ServedTrait], values: Float32Array, last: Float32Array, chosen: Sequence[ServedTrait]
) -> dict[str, Any]:
    return dict(at_once(summaries(scores_of(traits, values, last), chosen, LongLists())))


def fields(trait: ServedTrait, *values: float) -> dict[str, Any]:
    found: dict[str, Any] = summarised([trait], projections(*values), PROMPT_LAST, [trait])[trait.name]
    return found


def test_z_is_in_standard_deviations_of_the_baseline() -> None:
    found = fields(served_trait(mean=1.0, std=2.0), 3, 5, 1)
    assert found["mean"] == 3.0
    assert found["z"] == 1.0
    assert found["max_z"] == 2.0
    assert found["prompt_last"] == 0.25
    assert found["layer"] == 2


def test_an_uncalibrated_trait_has_projections_and_no_z() -> None:
    found = fields(uncalibrated(served_trait()), 3, 5, 1)
    assert found["mean"] == 3.0
    assert found["z"] is None
    assert found["max_z"] is None
    assert found["spikes"] == []


@pytest.mark.parametrize("values", [projections(), projections()[:, :0]], ids=["one token", "no token"])
def test_a_response_without_states_has_no_mean(values: Float32Array) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = summarised([served_trait()], values, PROMPT_LAST, [served_trait()])["paternalism"]
    assert (found["mean"], found["z"], found["max_z"], found["spikes"]) == (None, None, None, [])


def test_missing_states_are_null_and_left_out_of_the_mean() -> None:
    assert token_values(projections(3, math.nan, 1)) == [[3.0, None, 1.0, None]]
    assert fields(served_trait(), 3, math.nan, 1)["mean"] == 2.0


def test_traits_do_not_mix() -> None:
    values = np.array([[1, 3, np.nan], [7, 9, np.nan]], dtype=np.float32)
    last = np.array([0.5, 0.75], dtype=np.float32)
    traits = (served_trait("a", mean=0, std=1), served_trait("b", mean=8, std=2))
    found = summarised(traits, values, last, traits)
    assert [(t["mean"], t["z"], t["max_z"], t["prompt_last"]) for t in found.values()] == [
        (2.0, 2.0, 3.0, 0.5),
        (8.0, 0.0, 0.5, 0.75),
    ]


def test_sustained_high_z_is_reported_as_a_spike() -> None:
    (spike,) = fields(served_trait(mean=1.0, std=2.0), *[1.0] * 5, *[17.0] * 6)["spikes"]
    assert spike["start"] == 6
    assert spike["end"] == 11
    assert spike["peak_z"] == pytest.approx(8.0)


@given(st.lists(st.one_of(st.floats(-8, 8, width=32), st.just(math.nan)), max_size=40), st.floats(-1, 4))
def test_the_spikes_are_those_of_the_definition(values: list[float], threshold: float) -> None:
    """The search skips values for speed. It must not lose spikes at gaps, in quiet responses, or at either end."""
    found = fields(served_trait(mean=0.0, std=1.0, threshold=threshold), *values)["spikes"]
    z = projections(*values).astype(np.float64)[0].tolist()
    assert [(s["start"], s["end"]) for s in found] == [(s.start, s.end) for s in find_spikes(z, threshold)]


def test_a_trait_without_threshold_has_z_and_no_spikes() -> None:
    trait = dataclasses.replace(served_trait(), threshold=None)
    found = fields(trait, *[17.0] * 9)
    assert found["z"] == 8.0
    assert found["spikes"] == []


def test_selected_traits_come_in_the_requested_order() -> None:
    values = np.array([[1, np.nan], [7, np.nan], [5, np.nan]], dtype=np.float32)
    traits = tuple(served_trait(name) for name in "abc")
    found = summarised(traits, values, np.zeros(3, dtype=np.float32), [traits[2], traits[0]])
    assert [(name, of["mean"]) for name, of in found.items()] == [("c", 5.0), ("a", 1.0)]
