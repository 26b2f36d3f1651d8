"""Prometheus gets each scored response once, in the right buckets."""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.openmetrics.exposition import generate_latest

from tests.support.samples import sample
from tests.support.scores import scores_of
from tests.support.traits import served_trait, uncalibrated
from traitwatch_server.ledger.scores import Scores
from traitwatch_server.metrics import MEAN_Z_BUCKETS, TOKEN_Z_BUCKETS, Metrics
from traitwatch_server.recording.drift import WARM_UP
from traitwatch_server.recording.tally import Tally
from traitwatch_server.traits import ServedTrait

A, B = served_trait("a", mean=0, std=1), served_trait("b", mean=0, std=2, column=1)
Values = Sequence[Sequence[float]]


def scores(values: Values, traits: tuple[ServedTrait, ...] = (A, B)) -> Scores:
    """Return the scores of a response. `values` has the projections of the token states by trait."""
    states: npt.NDArray[np.float32] = np.array(values, dtype=np.float32)
    states = np.concatenate([states, np.full((len(traits), 1), np.nan, dtype=np.float32)], axis=1)
    return scores_of(traits, states, np.zeros(len(traits), dtype=np.float32))


def counted(*responses: Scores, traits: tuple[ServedTrait, ...] = (A, B)) -> CollectorRegistry:
    """Return the registry after some responses."""
    registry = CollectorRegistry()
    tally = Tally(Metrics(registry))
    tally.show(traits)
    for number, response in enumerate(responses):
        tally.add("0", response, f"chatcmpl-{number}")
    tally.flush()
    return registry


@given(st.lists(st.lists(st.floats(-9, 9, width=16), min_size=1, max_size=12), min_size=1, max_size=5))
def test_the_histograms_are_those_of_observing_value_by_value(responses: list[list[float]]) -> None:
    registry = counted(*(scores([values], (A,)) for values in responses), traits=(A,))
    naive = CollectorRegistry()
    tokens = Histogram("tokens", "", buckets=TOKEN_Z_BUCKETS, registry=naive)
    means = Histogram("means", "", buckets=MEAN_Z_BUCKETS, registry=naive)
    for values in responses:
        for value in values:
            tokens.observe(value)
        means.observe(float(np.mean(values)))
    for bound in (*TOKEN_Z_BUCKETS, "+Inf"):
        expected = naive.get_sample_value("tokens_bucket", {"le": str(bound)})
        assert sample(registry, "token_z_bucket", trait="a", le=str(bound)) == expected
    for bound in (*MEAN_Z_BUCKETS, "+Inf"):
        expected = naive.get_sample_value("means_bucket", {"le": str(bound)})
        assert sample(registry, "response_mean_z_bucket", trait="a", le=str(bound)) == expected


def test_each_trait_has_its_own_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    # Record both responses together: otherwise the older one weighs a little less.
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    registry = counted(scores([[4, 4], [4, 4]]), scores([[-1, -2], [-3, -5]]))
    assert sample(registry, "response_z_total", trait="a", sign="positive") == 4
    assert sample(registry, "response_z_total", trait="a", sign="negative") == 1.5
    assert sample(registry, "response_z_total", trait="b", sign="positive") == 2
    assert sample(registry, "response_z_total", trait="b", sign="negative") == 2
    assert sample(registry, "response_mean_z_count", trait="b") == 2
    assert sample(registry, "responses_total", trait="b") == 2
    assert sample(registry, "z_ewma", trait="a") == pytest.approx(1.25)


def test_spikes_and_the_responses_that_have_one_are_counted_apart() -> None:
    loud, quiet = [9.0] * 5, [-9.0] * 20
    registry = counted(scores([[*loud, *quiet, *loud, *loud], [0.0] * 35]), scores([loud, loud]))
    assert sample(registry, "spikes_total", trait="a") == 3
    assert sample(registry, "responses_over_threshold_total", trait="a") == 2
    assert sample(registry, "spikes_total", trait="b") == 1
    assert sample(registry, "responses_over_threshold_total", trait="b") == 1


def test_every_label_set_is_there_from_the_start() -> None:
    registry = counted()
    for name in (
        "spikes_total",
        "responses_total",
        "responses_over_threshold_total",
        "response_mean_z_count",
        "z_ewma",
        "drift",
    ):
        for trait in ("a", "b"):
            assert sample(registry, name, trait=trait) == 0
    assert sample(registry, "drift_cusum", trait="a", direction="up") == 0
    assert sample(registry, "tokens_unscored_total", reason="rows_missing") == 0


def test_a_missing_state_and_an_uncalibrated_trait_count_for_nothing() -> None:
    bare = uncalibrated(B)
    registry = counted(scores([[1, float("nan"), 3], [1, 2, 3]], (A, bare)), traits=(A, bare))
    assert sample(registry, "token_z_count", trait="a") == 2
    assert sample(registry, "response_z_total", trait="a", sign="positive") == 2
    assert sample(registry, "token_z_count", trait="b") == 0
    assert sample(registry, "responses_total", trait="b") == 0


def test_a_response_without_states_is_no_response_of_a_trait() -> None:
    registry = counted(scores([[], []]))
    assert sample(registry, "responses_total", trait="a") == 0


def test_nothing_is_counted_twice() -> None:
    registry = CollectorRegistry()
    tally = Tally(Metrics(registry))
    tally.show([A])
    tally.add("0", scores([[9.0] * 5], (A,)), "x")
    for _ in range(3):
        tally.flush()
    tally.add("0", scores([[9.0] * 5], (A,)), "x")
    tally.flush()
    assert sample(registry, "token_z_count", trait="a") == 10
    assert sample(registry, "spikes_total", trait="a") == 2


def test_exemplars_name_the_call() -> None:
    registry = CollectorRegistry()
    tally = Tally(Metrics(registry))
    tally.show([A])
    tally.add("0", scores([[9.0] * 5], (A,)), "0123456789abcdef")
    tally.flush()
    lines = generate_latest(registry).decode().splitlines()
    (bucket,) = [line for line in lines if line.startswith("traitwatch_response_mean_z_bucket") and "#" in line]
    assert 'le="+Inf"' in bucket
    assert '# {call_id="0123456789abcdef"' in bucket
    assert " 9.0 " in bucket.partition("#")[2]
    (spike,) = [line for line in lines if line.startswith("traitwatch_spikes_total") and "#" in line]
    assert '# {call_id="0123456789abcdef"' in spike


def test_traits_come_and_go_and_counts_stay() -> None:
    registry = CollectorRegistry()
    tally = Tally(Metrics(registry))
    tally.show([A])
    tally.add("0", scores([[9.0] * 5], (A,)), "x")
    tally.show([B])
    described = {"trait": "a", "layer": "2", "sha256": A.vector.sha256, "calibration_date": "2026-01-01"}
    assert sample(registry, "token_z_count", trait="a") == 5, "counts that were not flushed must not be lost"
    with pytest.raises(KeyError):
        sample(registry, "vector_info", **described)
    with pytest.raises(KeyError):
        sample(registry, "threshold_z", trait="a")
    assert sample(registry, "vector_info", **{**described, "trait": "b"}) == 1
    assert sample(registry, "token_z_count", trait="b") == 0
    # A request that began with trait A may end now.
    tally.add("0", scores([[9.0] * 5], (A,)), "x")
    tally.show([A, B])
    assert sample(registry, "token_z_count", trait="a") == 10
    assert sample(registry, "vector_info", **described) == 1
    assert sample(registry, "threshold_z", trait="a") == 2.0
    assert sample(registry, "threshold_rate", trait="a") == 0.01


def test_the_gauges_of_recent_traffic_are_reset_with_their_trait() -> None:
    """An alert on such a gauge would fire until the server ends."""
    registry = CollectorRegistry()
    tally = Tally(Metrics(registry))
    tally.show([A])
    for mean in [0.0, 1.0] * WARM_UP + [9.0] * 20:
        tally.add("0", scores([[mean] * 5], (A,)), "x")
    tally.flush()
    assert sample(registry, "drift_cusum", trait="a", direction="up") > 15
    tally.show([B])
    for name, labels in (("drift_cusum", {"direction": "up"}), ("drift", {}), ("z_ewma", {})):
        assert sample(registry, name, trait="a", **labels) == 0
    tally.show([A])
    tally.add("0", scores([[9.0] * 5], (A,)), "x")
    tally.flush()
    assert sample(registry, "drift_cusum", trait="a", direction="up") == 0, "the baseline must begin anew"


def test_a_trait_in_the_place_of_another_has_a_baseline_of_its_own() -> None:
    registry = CollectorRegistry()
    tally = Tally(Metrics(registry))
    tally.show([A])
    tally.add("0", scores([[9.0] * 5], (A,)), "x")
    other = dataclasses.replace(A, layer=1)
    tally.show([other])
    tally.add("0", scores([[1.0] * 5], (other,)), "x")
    tally.flush()
    assert sample(registry, "z_ewma", trait="a") == 1.0


def test_each_engine_has_its_counts_and_an_unknown_engine_is_named_unknown() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, engines=("0", "1"))
    tally = Tally(metrics)
    tally.show([A])
    for engine in (0, 1, 1, None):
        tally.add(metrics.engine_of(engine), scores([[1.0]], (A,)), "x")
    tally.flush()
    counts = [
        registry.get_sample_value("traitwatch_token_z_count", {"model_name": "model", "engine": engine, "trait": "a"})
        for engine in ("0", "1", "unknown")
    ]
    assert counts == [1, 2, 1]
    assert Metrics(CollectorRegistry()).engine_of(None) == "0", "a server with one engine must use that engine"


def drifted(registry: CollectorRegistry) -> float:
    return sample(registry, "drift_cusum", trait="a", direction="up")


@pytest.mark.parametrize("unloaded", [False, True], ids=["replaced", "unloaded"])
def test_late_responses_of_a_vector_say_nothing_of_the_drift_of_the_next(*, unloaded: bool) -> None:
    """A response keeps the vector with which it began, and may end long after the vector was replaced."""
    registry = CollectorRegistry()
    tally = Tally(Metrics(registry))
    new = served_trait("a", mean=0, std=1)
    tally.show([A])
    for number in range(WARM_UP):
        tally.add("0", scores([[float(number % 2)] * 3], (A,)), "old")
    tally.show([] if unloaded else [new])
    for _ in range(WARM_UP + 40):
        tally.add("0", scores([[9.0] * 3], (A,)), "late")
    tally.flush()
    assert sample(registry, "z_ewma", trait="a") == drifted(registry) == 0
    assert sample(registry, "responses_total", trait="a") == 2 * WARM_UP + 40, "the response itself counts"
    tally.show([new])
    for number in range(WARM_UP):
        tally.add("0", scores([[float(number % 2)] * 3], (new,)), "new")
    tally.flush()
    assert sample(registry, "z_ewma", trait="a") == pytest.approx(0.5, abs=0.1)
    assert drifted(registry) == 0
