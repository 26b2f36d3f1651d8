"""What one scrape of `/metrics` and one `GET /v1/traits` cost the loop, at 30 traits that scored answers."""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
from fastapi import FastAPI
from prometheus_client import REGISTRY
from vllm.entrypoints.serve.instrumentator.metrics import attach_router

from tests.benchmarks.blocked_loop.probe import probe
from tests.benchmarks.blocked_loop.serving import Case, Serving, serving
from tests.benchmarks.blocked_loop.worker import LAYER, token_ids, values
from traitwatch_server.app.exposition import MetricsMiddleware
from traitwatch_server.app.routes import add_routes
from traitwatch_server.monitor import Monitor
from traitwatch_server.wire import RowFrame, RowRun

TRAITS = 30
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
# A router that polls twenty times a second, for two seconds.
SCRAPES, PAUSE = 40, 0.05


def app_of(server: Serving) -> FastAPI:
    """Return an application with vLLM's own route of metrics, and ours before it."""
    app = FastAPI()
    attach_router(app)
    up: Any = SimpleNamespace(monitor=server.monitor, spikes=None, registry=None, draining=None)
    app.add_middleware(MetricsMiddleware, flush=server.monitor.recorder.tally.flush)
    add_routes(app, lambda: up, admin=False)
    return app


async def routes(runs: int) -> None:
    """Measure and write a table: processor time of the loop's thread and of the process for each scrape."""
    out = sys.stdout
    out.write(f"\n{TRAITS} traits, {SCRAPES} scrapes {PAUSE * 1e3:.0f} ms apart, an answer between each two; ms\n")
    out.write(f"{'route':34} {'longest turn':>13} {'loop a scrape':>14} {'process a scrape':>17}\n")
    with tempfile.TemporaryDirectory() as directory:
        async with serving(TRAITS, Path(directory), REGISTRY) as server:
            server.prepare(Case(tokens=256))
            await server.request()
            transport = httpx.ASGITransport(app_of(server))
            async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
                for name, path, accept in (
                    ("/metrics, Prometheus's text", "/metrics", "text/plain"),
                    ("/metrics, OpenMetrics", "/metrics", OPENMETRICS),
                    ("/v1/traits", "/v1/traits", "*/*"),
                ):
                    rows = [await _scraped(client, path, accept, server) for _ in range(runs)]
                    cells = [statistics.median(column) for column in zip(*rows, strict=True)]
                    out.write(f"{name:34} {cells[0]:13.2f} {cells[1]:14.2f} {cells[2]:17.2f}\n")
                    out.flush()


async def _scraped(client: httpx.AsyncClient, path: str, accept: str, server: Serving) -> tuple[float, float, float]:
    async def scrape() -> None:
        response = await client.get(path, headers={"accept": accept})
        assert response.status_code == 200, response.text

    async def idle() -> None:
        return None

    await scrape()
    base, whole_base = await _used(idle, server)
    used, whole = await _used(scrape, server)
    async with probe() as seen:
        for _ in range(SCRAPES // 4):
            score_one(server.monitor)
            await asyncio.sleep(PAUSE)
            await scrape()
    return seen.cpu, max(0.0, used - base) / SCRAPES, max(0.0, whole - whole_base) / SCRAPES


async def _used(do: Callable[[], Awaitable[None]], server: Serving) -> tuple[float, float]:
    """Do something many times, each time after an answer was scored. Return ms of the loop's thread, of the process."""
    used, whole = time.thread_time(), time.process_time()
    for _ in range(SCRAPES):
        score_one(server.monitor)
        await do()
        await asyncio.sleep(PAUSE)
    return 1e3 * (time.thread_time() - used), 1e3 * (time.process_time() - whole)


def score_one(monitor: Monitor) -> None:
    """Score and record an answer of 16 tokens."""
    call = monitor.ledger.open(monitor.traits, request_id="cmpl-1")
    rows = call.choice(0)
    ids = token_ids(24)
    rows.prompt = ids[:8]
    rows.tokens.extend(ids[8:])
    data = values(7, 16, len(monitor.traits.all), spiky=False)
    run = RowRun(call.key, "cmpl-1", 8, 16)
    monitor.ledger.deliver(RowFrame([LAYER], [len(monitor.traits.all)], [run], 0, 0, time.time(), data.tobytes()))
    monitor.recorder.ended(call, finished=True)
