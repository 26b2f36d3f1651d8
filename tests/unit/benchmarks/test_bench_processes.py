"""CPU and memory are those of every process of a server, only over the measured time."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.benchmarks.serving.processes import Meter, Usage, role, summary

# A parent with a child. For a line, the child burns and prints a quarter second of CPU, and holds 64 MiB for a moment.
CHILD = """
import sys, time
for line in sys.stdin:
    start = time.process_time()
    held = b"x" * (64 << 20)
    del held
    while time.process_time() < start + 0.25:
        pass
    print(time.process_time() - start, flush=True)
"""
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=-1, stdout=-1, text=True) as process:
        yield process


def work(parent: subprocess.Popen[str]) -> float:
    """Let the child work. Return the seconds of CPU that it used."""
    assert parent.stdin is not None
    assert parent.stdout is not None
    parent.stdin.write("\n")
    parent.stdin.flush()
    return float(parent.stdout.readline())


def test_a_childs_work_is_counted_while_the_meter_runs(parent: subprocess.Popen[str]) -> None:
    work(parent)
    meter = Meter(parent.pid)
    idle = meter.read()
    took = work(parent)
    own, child = meter.read()
    assert [usage.role for usage in idle] == ["api", "helper"]
    assert sum(usage.cpu_s for usage in idle) < 0.1
    assert own.cpu_s < 0.1
    assert child.cpu_s == pytest.approx(took, abs=0.1)


def test_the_peak_is_of_this_load_and_not_of_an_earlier_one(parent: subprocess.Popen[str]) -> None:
    work(parent)
    meter = Meter(parent.pid)
    before = meter.read()[1].peak_rss_mib
    work(parent)
    assert meter.read()[1].peak_rss_mib - before > 50
    assert Meter(parent.pid).read()[1].peak_rss_mib - before < 20


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["VLLM::EngineCore"], "EngineCore"),
        (["VLLM::EngineCore_DP1"], "EngineCore"),
        (["VLLM::Worker_TP0"], "Worker"),
        (["VLLM::Worker"], "Worker"),
        (["/usr/bin/python", "-c", "from multiprocessing.resource_tracker import main"], "helper"),
        ([], "helper"),
    ],
)
def test_roles_are_the_titles_that_vllm_gives(command: list[str], name: str) -> None:
    assert role(command) == name


def test_a_summary_keeps_the_api_process_apart() -> None:
    usages = [Usage("api", 1, 1.0, 100, 90), Usage("EngineCore", 2, 2.0, 200, 150), Usage("Worker", 3, 3.0, 300, 250)]
    totals = summary(usages, 2000)
    assert (totals["cpu_s"], totals["cpu_api_s"], totals["cpu_engine_s"]) == (6.0, 1.0, 5.0)
    assert totals["cpu_s_per_1000_tokens"] == 3.0
    assert (totals["peak_rss_mib"], totals["peak_rss_api_mib"], totals["pss_mib"]) == (600, 100, 490)
    assert [process["role"] for process in totals["processes"]] == ["api", "EngineCore", "Worker"]
