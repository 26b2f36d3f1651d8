"""`traitwatch doctor` as a user runs it, with the embedded model on this machine's CPU."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from tests.support.processes import END_TIMEOUT
from tests.support.reference import MAX_TIMES_ROUNDING
from tests.support.serving import START_TIMEOUT, environment, traitwatch
from traitwatch_builder.models.embedded import embedded_model
from traitwatch_server.doctor.chats import SERVED_NAME

pytestmark = pytest.mark.engine

OPTIONS = ("--cpu", "--rounds", "1", "--loads", "2", "--enforce-eager", "--max-model-len", "1024")


@pytest.fixture(scope="module")
def model() -> Path:
    """The embedded model. The random model of the matrix has fewer layers than the doctor measures."""
    return embedded_model()


def doctor_environment(cache: Path) -> Mapping[str, str]:
    """Return an environment in which the doctor has its own cache directory, and vLLM keeps its usual cache."""
    shared = os.environ.get("VLLM_CACHE_ROOT", str(Path.home() / ".cache" / "vllm"))
    return {**environment(), "XDG_CACHE_HOME": str(cache), "VLLM_CACHE_ROOT": shared}


def servers_left(cache: Path) -> list[int]:
    """Return the pids of servers that a doctor with this cache directory started. Other servers may run here too."""
    servers = [p for p in psutil.process_iter(["cmdline"]) if SERVED_NAME in (p.info["cmdline"] or ())]
    return [p.pid for p in servers if _cache(p) == str(cache)]


def _cache(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("XDG_CACHE_HOME")
    except psutil.Error:
        return None


def test_the_report_confirms_the_scores_on_this_machine(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.md"
    command = traitwatch("doctor", model, *OPTIONS, "--out", out)
    done = subprocess.run(command, capture_output=True, text=True, env=doctor_environment(tmp_path), check=False)
    assert done.stdout, done.stderr
    report = out.read_text()
    assert done.stdout == report
    verdicts = dict(re.findall(r"^\| (\w+) \| \*\*(.+)\*\* \|$", report, re.MULTILINE))
    # The overhead depends on the machine, which others may be using. The test asserts only that it is measured.
    overhead = verdicts.pop("overhead")
    assert verdicts == dict.fromkeys(("servers", "parity", "isolation"), "pass")
    assert re.search(r"32 streams of 96 tokens at once, 2 pairs of loads: ratio \d\.\d+ ", report)
    assert done.returncode == (0 if overhead == "pass" else 1), overhead
    for layer in (1, 10, 20, 30):
        row = re.search(rf"^\| {layer} \| (\S+) \| (\S+) \| (\S+) \|", report, re.MULTILINE)
        assert row is not None
        correlation, error, of_bfloat16 = map(float, row.groups())
        # The chats are sampled. For some texts, bfloat16 itself is far from float32.
        hard = MAX_TIMES_ROUNDING * of_bfloat16
        assert 1 - correlation < max(0.001, hard**2 / 2)
        assert error < max(0.05, hard)
    assert "| chats at once (others hung up between them) | 32 |" in report
    assert "GPUs, CUDA graphs and CUDA streams; the V2 model runner" in report
    assert f"## Traitwatch doctor: {model.name}\n" in report
    assert str(model.parent) not in report
    assert servers_left(tmp_path) == []


def test_ctrl_c_ends_the_servers(model: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        traitwatch("doctor", model, *OPTIONS), stderr=subprocess.DEVNULL, env=doctor_environment(tmp_path)
    )
    deadline = time.monotonic() + START_TIMEOUT
    while not _an_engine_starts(tmp_path):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(END_TIMEOUT) != 0
    assert servers_left(tmp_path) == []


def _an_engine_starts(cache: Path) -> bool:
    logs = cache.glob("traitwatch/doctor/*/*.log")
    return any("EngineCore" in log.read_text(errors="replace") for log in logs)
