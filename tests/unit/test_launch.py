"""An engine that died is told from one that was ended."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from server.config import Settings
from server.engine import watch_end
from server.launch import Launch, launch_of


class EngineClient:
    """Ends as vLLM's client does: once it is shut down it counts as dead, and it is shut down more than once."""

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
def engine(launch: Launch, ends: list[str]) -> Any:
    engine: Any = EngineClient()
    watch_end(engine, launch, lambda: ends.append("end"))
    return engine


def test_an_engine_that_is_ended_has_not_died(engine: Any, launch: Launch, ends: list[str]) -> None:
    engine.shutdown(timeout=3)
    engine.shutdown()
    assert ends == ["end"]
    assert engine.timeouts == [3, None]
    assert not launch.engine_died


def test_an_engine_that_is_dead_before_it_is_ended_has_died(engine: Any, launch: Launch) -> None:
    engine.errored = True
    engine.shutdown()
    engine.shutdown()
    assert launch.engine_died
