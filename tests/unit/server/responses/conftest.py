"""A monitor that waits only a moment for lost rows."""

import pytest
from prometheus_client import CollectorRegistry

from tests.support.asgi import monitor_of
from traitwatch_server.monitor import Monitor


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def monitor(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> Monitor:
    monkeypatch.setattr("traitwatch_server.responses.answer_scores.ROWS_TIMEOUT", 0.05)
    monkeypatch.setattr("traitwatch_server.recording.recorder.ROWS_TIMEOUT", 0.05)
    return monitor_of(registry, "tokens")
