"""The server distinguishes an engine that died from an engine that was ended."""

import asyncio
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from traitwatch_server.app.draining import ENGINE_TIMEOUT
from traitwatch_server.app.engine import watch_end
from traitwatch_server.app.handover import Launch, launch_of
from traitwatch_server.settings import Settings


class EngineClient:
    """Ends like vLLM's client: after a shutdown it counts as dead. vLLM shuts it down more than once."""

    def __init__(self) -> None:
        self.errored = False
        self.timeouts: list[float | None] = []

    def shutdown(self, timeout: float | None = None) -> None:
        self.timeouts.append(timeout)
        self.errored = True


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    args = Namespace()
    Launch(Settings(directories=()), tmp_path).leave_in(args)
    return launch_of(args)


@pytest.fixture
def ends() -> list[str]:
    return []


@pytest.fixture
async def engine(launch: Launch, ends: list[str]) -> Any:
    async def drain() -> None:
        ends.append("drain")

    engine: Any = EngineClient()
    watch_end(engine, launch, drain, lambda: ends.append("end"))
    return engine


async def test_an_engine_that_is_ended_is_drained_first_and_has_not_died(
    engine: Any, launch: Launch, ends: list[str]
) -> None:
    # vLLM does so: in another thread after a signal, and in the loop's thread at the end.
    await asyncio.to_thread(engine.shutdown, timeout=3)
    engine.shutdown(timeout=3)
    assert ends == ["drain", "end"]
    assert engine.timeouts == [ENGINE_TIMEOUT, 3]
    assert not launch.engine_died


async def test_a_server_that_ends_before_it_has_served_is_not_drained(engine: Any, ends: list[str]) -> None:
    engine.shutdown(timeout=3)
    assert ends == ["end"]
    assert engine.timeouts == [3]


async def test_an_engine_that_is_dead_before_it_is_ended_has_died(engine: Any, launch: Launch, ends: list[str]) -> None:
    engine.errored = True
    await asyncio.to_thread(engine.shutdown)
    engine.shutdown()
    assert ends == ["end"]
    assert launch.engine_died
