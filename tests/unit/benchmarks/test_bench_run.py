"""The order of a run: both servers start anew for every pair, and a failure ends only its own comparison.

The servers and their load are stand-ins: the real ones take minutes, and the tests only check the order of the calls.
"""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.benchmarks.serving import run as module
from tests.benchmarks.serving.load import Load, LoadError
from tests.benchmarks.serving.plan import PLAIN, Comparison
from tests.benchmarks.serving.record import Record
from tests.benchmarks.serving.run import Benchmark
from tests.benchmarks.serving.sides import Side
from tests.support.serving import Server

LOADS = (Load(1, 2, 8, 4), Load(4, 8, 8, 4))
SIX, ONE = Comparison(PLAIN, "6 traits", LOADS), Comparison(PLAIN, "1 trait", LOADS)


class Stage:
    """Stands in for servers and load, and records the calls."""

    def __init__(self, broken: str = "", failing: str = ""):
        self.broken, self.failing = broken, failing
        self.up: list[str] = []
        self.started: list[str] = []
        self.loaded: list[tuple[str, str, int, int]] = []

    def make_side(self, name: str, model: Path, mode: str, directory: Path) -> Side:
        return Side(name, [name], lambda server: None)

    @contextmanager
    def serving(self, command: Sequence[str], log: Path, *, variables: Mapping[str, str]) -> Iterator[Server]:
        assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in variables, "the measured servers have vLLM's own processes"
        (name,) = command
        self.started.append(name)
        if name == self.broken:
            raise AssertionError("the server did not come up")
        self.up.append(name)
        # Only the pid of the process is read.
        process: Any = subprocess.CompletedProcess([], 0)
        process.pid = os.getpid()
        try:
            yield Server(name, log, process)
        finally:
            self.up.remove(name)

    def measure(self, generator: object, server: Server, other: Server, load: Load, seed: int) -> dict[str, Any]:
        assert sorted(self.up) == sorted([server.url, other.url])
        if server.url == self.failing:
            raise LoadError("1 of 8 requests failed")
        self.loaded.append((server.url, other.url, load.prompts, seed))
        return {"output_tokens_per_s": 100.0, "itl_ms": {"p50": 50.0, "p99": 90.0}}


def play(monkeypatch: pytest.MonkeyPatch, directory: Path, stage: Stage, pairs: int, *comparisons: Comparison) -> Any:
    @contextmanager
    def no_generator(model: Path, directory: Path) -> Iterator[None]:
        yield None

    for name in ("make_side", "serving", "measure"):
        monkeypatch.setattr(module, name, getattr(stage, name))
    monkeypatch.setattr(module, "load_generator", no_generator)
    record = Record(directory / "bench.json", {})
    quiet = Console(file=(directory / "out.txt").open("w"))
    benchmark = Benchmark(Path("/model"), directory, record, pairs, console=quiet, advance=lambda done, what: None)
    benchmark.run(["eager"], comparisons)
    assert stage.up == []
    return record.data


def test_each_pair_starts_both_servers_anew_and_in_the_other_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stage = Stage()
    data = play(monkeypatch, tmp_path, stage, 2, SIX)
    assert stage.started == [PLAIN, "6 traits", "6 traits", PLAIN]
    assert [(run["pair"], run["concurrency"], run["first"]) for run in data["runs"]] == [
        (0, 1, PLAIN),
        (0, 4, "6 traits"),
        (1, 1, "6 traits"),
        (1, 4, PLAIN),
    ]
    assert all(set(run["measured"]) == {PLAIN, "6 traits"} for run in data["runs"])


def test_both_servers_get_the_same_requests_and_each_pair_has_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stage = Stage()
    play(monkeypatch, tmp_path, stage, 2, SIX)
    # Two loads warm up. The next four loads count.
    counted = [loaded for start in (0, 6) for loaded in stage.loaded[start + 2 : start + 6]]
    seeds = [(one[3], two[3]) for one, two in zip(counted[::2], counted[1::2], strict=True)]
    assert all(one == two for one, two in seeds)
    assert len({one for one, _ in seeds}) == 4
    assert all({one[0], two[0]} == {PLAIN, "6 traits"} for one, two in zip(counted[::2], counted[1::2], strict=True))


def test_every_comparison_has_a_pair_before_any_has_the_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = play(monkeypatch, tmp_path, Stage(), 2, SIX, ONE)
    order = [(run["pair"], run["side"]) for run in data["runs"]][::2]
    assert order == [(0, "6 traits"), (0, "1 trait"), (1, "6 traits"), (1, "1 trait")]


@pytest.mark.parametrize("stage", [Stage(broken="6 traits"), Stage(failing="6 traits")], ids=["start", "load"])
def test_a_failure_is_reported_once_and_the_other_comparisons_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: Stage
) -> None:
    data = play(monkeypatch, tmp_path, stage, 2, SIX, ONE)
    assert [failure["what"] for failure in data["failures"]] == ["eager: 6 traits / plain vLLM, pair 1"]
    assert {run["side"] for run in data["runs"]} == {"1 trait"}
    assert len(data["runs"]) == 4
