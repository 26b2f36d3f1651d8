"""The start-up check refuses a tap that is dead, silent or broken. The engine here says only what the worker sends."""

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from server import canary
from server.errors import CanaryError
from server.metrics import Metrics
from server.monitor import Monitor
from server.transport import REQUEST_KEY, Frame, Span
from tests.unit.traits import served_trait


class Engine:
    """An engine whose worker sends `rows` for the request it is given."""

    def __init__(self, monitor: Monitor, rows: list[list[float]]) -> None:
        self._monitor = monitor
        self._rows = np.array(rows, dtype=np.float32).reshape(-1, 2)

    async def generate(self, prompt: Any, params: Any, request_id: str) -> AsyncIterator[None]:
        span = Span(params.extra_args[REQUEST_KEY], request_id, -1, len(self._rows))
        if len(self._rows):
            self._monitor.ledger.deliver(Frame([2], [span], self._rows.tobytes()))
        yield None


@pytest.fixture
def monitor(monkeypatch: pytest.MonkeyPatch) -> Monitor:
    monkeypatch.setattr(canary, "_ROWS_TIMEOUT", 0.05)
    traits = [served_trait("alive", column=0), served_trait("other", column=1)]
    return Monitor(traits, "tokens", "api", Metrics(CollectorRegistry()))


async def test_a_living_tap_passes(monitor: Monitor) -> None:
    await canary.run_canary(Engine(monitor, [[1, 2], [3, 4], [5, 6], [7, 8]]), monitor)  # type: ignore[arg-type]
    assert len(monitor.ledger) == 0


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "no projection of it came"),
        ([[1, 0], [2, 0], [3, 0], [4, 0]], r"projections of other \(layer 2\) do not move"),
        ([[1, 5], [2, 7], [3, 7], [4, 7]], r"projections of other \(layer 2\) do not move"),
        ([[1, 2], [3, float("nan")], [5, 6], [7, 8]], "not finite for other"),
        ([[1, 2], [3, float("inf")], [5, 6], [7, 8]], "not finite for other"),
        ([[1, 2], [3, 4]], "missing"),
    ],
    ids=["silent", "dead", "dead after the prompt", "nan", "inf", "too few"],
)
async def test_anything_else_refuses_to_start(monitor: Monitor, rows: list[list[float]], says: str) -> None:
    with pytest.raises(CanaryError, match=says):
        await canary.run_canary(Engine(monitor, rows), monitor)  # type: ignore[arg-type]
    assert len(monitor.ledger) == 0
