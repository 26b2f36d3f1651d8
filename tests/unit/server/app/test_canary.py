"""The start-up check refuses a dead, silent or broken tap. Here the engine decides what a worker sends."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from tests.support.traits import served_trait
from traitwatch_server.app import canary
from traitwatch_server.errors import CanaryError
from traitwatch_server.metrics import Metrics
from traitwatch_server.monitor import Monitor
from traitwatch_server.traits import trait_set
from traitwatch_server.wire import REQUEST_KEY, RowFrame, RowRun

TOKENS = [50, 51, 52, 53]
ALIVE: list[list[float]] = [[1, 2], [3, 4], [5, 6], [7, 8]]


class Engine:
    """An engine whose worker sends projections for its requests, as if they were those of `tokens`."""

    def __init__(
        self,
        monitor: Monitor,
        rows: list[list[float]],
        tokens: list[int] = TOKENS,
        engines: int = 1,
        mixed_up_at: int | None = None,
    ) -> None:
        """Start the engine.

        Args:
            monitor: gets the rows.
            rows: the projections of a request.
            tokens: the tokens of the rows.
            engines: the number of engines on this machine.
            mixed_up_at: how many requests at once the worker gives each other's rows; None for never.
        """
        self._monitor = monitor
        self._rows = rows
        self._tokens = tokens
        self._mixed_up_at = mixed_up_at
        self._running = 0
        self.ranks: list[int | None] = []
        self.most_at_once = 0
        # One of several machines, each with its own balancer. The check can only ask the engines of this machine.
        local = {"data_parallel_size_local": engines, "local_engines_only": True}
        parallel = SimpleNamespace(data_parallel_index=0, data_parallel_size=2 * engines, **local)
        self.vllm_config = SimpleNamespace(parallel_config=parallel)

    async def generate(
        self, prompt: Any, params: Any, request_id: str, *, data_parallel_rank: int | None = None
    ) -> AsyncIterator[Any]:
        self.ranks.append(data_parallel_rank)
        self._running += 1
        await asyncio.sleep(0)
        self.most_at_once = max(self.most_at_once, self._running)
        ids = prompt["prompt_token_ids"]
        last = ids[-1] + (self._running == self._mixed_up_at)
        inputs = [last, *self._tokens]
        rows = [[len(ids) - 1 + i, inputs[i], *row] for i, row in enumerate(self._rows)]
        run = RowRun(params.extra_args[REQUEST_KEY], request_id, len(ids), len(rows))
        if rows:
            data = np.array(rows, dtype=np.float32).tobytes()
            self._monitor.ledger.deliver(RowFrame([2], [2], [run], 0, 0, 0.0, data))
        output = SimpleNamespace(index=0, token_ids=TOKENS)
        yield SimpleNamespace(prompt_token_ids=ids, outputs=[output])
        self._running -= 1


@pytest.fixture
def monitor(monkeypatch: pytest.MonkeyPatch) -> Monitor:
    monkeypatch.setattr(canary, "_ROWS_TIMEOUT", 0.05)
    traits = [served_trait("alive", column=0), served_trait("other", column=1)]
    return Monitor(trait_set(traits), "tokens", "api", Metrics(CollectorRegistry()))


@pytest.mark.parametrize(("engines", "ranks"), [(1, [None]), (3, [0, 1, 2])])
async def test_a_living_tap_passes_on_every_engine(monitor: Monitor, engines: int, ranks: list[int | None]) -> None:
    engine = Engine(monitor, ALIVE, engines=engines)
    await canary.run_canary(engine, monitor)  # type: ignore[arg-type]
    assert list(dict.fromkeys(engine.ranks)) == ranks
    assert engine.most_at_once == canary._BATCH
    assert len(monitor.ledger) == 0


@pytest.mark.parametrize(
    ("rows", "message"),
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
async def test_anything_else_refuses_to_start(monitor: Monitor, rows: list[list[float]], message: str) -> None:
    with pytest.raises(CanaryError, match=message):
        await canary.run_canary(Engine(monitor, rows), monitor)  # type: ignore[arg-type]
    assert len(monitor.ledger) == 0


async def test_rows_of_other_tokens_refuse_to_start(monitor: Monitor) -> None:
    """A worker that reads the wrong rows sends finite, changing projections of other tokens."""
    with pytest.raises(CanaryError, match="of other tokens than those that were generated"):
        await canary.run_canary(Engine(monitor, ALIVE, tokens=[50, 99, 52]), monitor)  # type: ignore[arg-type]


async def test_rows_that_many_requests_at_once_mix_up_refuse_to_start(monitor: Monitor) -> None:
    """A request alone says nothing of a batch: other graphs run, and the rows of many requests lie side by side."""
    engine = Engine(monitor, ALIVE, mixed_up_at=canary._BATCH)
    with pytest.raises(CanaryError, match="of other tokens than those that were generated"):
        await canary.run_canary(engine, monitor)  # type: ignore[arg-type]
    assert len(monitor.ledger) == 0


async def test_a_silent_worker_is_found_by_the_first_prompt(monitor: Monitor) -> None:
    engine = Engine(monitor, [])
    with pytest.raises(CanaryError, match="no projection of it came"):
        await canary.run_canary(engine, monitor)  # type: ignore[arg-type]
    assert engine.most_at_once == 1
