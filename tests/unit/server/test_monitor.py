"""A monitor tells which vectors are of other weights than the model's."""

import logging

import pytest
from prometheus_client import CollectorRegistry

from tests.support.frames import frame
from tests.support.samples import sample
from tests.support.traits import served_trait
from traitwatch_server.metrics import Metrics
from traitwatch_server.monitor import Monitor
from traitwatch_server.traits import trait_set
from traitwatch_server.wire import RowFrame

OLD, NEW = 2**64 - 1, 17


def notice(weights: int, engine: int = 0, layers: tuple[int, ...] = (2,)) -> RowFrame:
    """Return a frame without rows, as a worker sends it when its weights have changed."""
    sent = frame(layers=layers, engine=engine)
    return RowFrame(sent.layers, sent.widths, [], 0, engine, 0.0, b"", weights=weights)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def monitor(registry: CollectorRegistry) -> Monitor:
    metrics = Metrics(registry, engines=("0", "1"))
    return Monitor(trait_set([served_trait("a"), served_trait("b")]), "tokens", "api", metrics)


def shown(registry: CollectorRegistry, *traits: str) -> set[str]:
    return {trait for trait in traits if sample(registry, "vector_stale", trait=trait)}


def test_all_vectors_are_stale_while_the_weights_are_others(
    monitor: Monitor, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    for engine in (0, 1):
        monitor.ledger.deliver(notice(OLD, engine))
    assert monitor.stale == shown(registry, "a", "b") == frozenset()
    with caplog.at_level(logging.INFO):
        monitor.ledger.deliver(notice(NEW, 1))
        monitor.ledger.deliver(notice(NEW, 1))
    assert monitor.stale == shown(registry, "a", "b") == {"a", "b"}
    monitor.ledger.deliver(notice(OLD, 1))
    assert monitor.stale == shown(registry, "a", "b") == frozenset()
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "weights were replaced" in warning.getMessage()
    assert "a, b" in warning.getMessage()


def test_a_trait_that_is_loaded_after_the_replacement_counts_as_made_for_the_new_weights(
    monitor: Monitor, registry: CollectorRegistry
) -> None:
    monitor.ledger.deliver(notice(OLD))
    monitor.ledger.deliver(notice(NEW))
    kept, _ = monitor.traits.all
    monitor.traits = trait_set([kept, served_trait("b")])
    assert monitor.stale == shown(registry, "a", "b") == {"a"}
    monitor.ledger.deliver(notice(OLD))
    assert monitor.stale == {"b"}


def test_each_pipeline_stage_has_its_own_weights(monitor: Monitor) -> None:
    monitor.ledger.deliver(notice(OLD, layers=(1,)))
    monitor.ledger.deliver(notice(NEW, layers=(2,)))
    assert monitor.stale == frozenset()
    monitor.ledger.deliver(notice(OLD, layers=(2,)))
    assert monitor.stale == {"a", "b"}


def test_a_trait_that_is_unloaded_is_no_longer_shown(monitor: Monitor, registry: CollectorRegistry) -> None:
    monitor.ledger.deliver(notice(OLD))
    monitor.ledger.deliver(notice(NEW))
    monitor.traits = trait_set([])
    assert monitor.stale == frozenset()
    with pytest.raises(KeyError):
        sample(registry, "vector_stale", trait="a")


def test_a_notice_is_no_frame_of_rows(monitor: Monitor, registry: CollectorRegistry) -> None:
    """Otherwise a worker that fails in every pass would look like one that sends rows, and answers would wait."""
    monitor.ledger.deliver(notice(OLD))
    assert monitor.ledger.frames.count == 0
    assert sample(registry, "transport_lag_seconds_count") == 0
