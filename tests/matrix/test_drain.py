"""A signal ends a server in order: with several processes, and before the server is up.

A server with several processes finishes its answers, with all scores. `test_scheduling` has the servers with a single
API process and a single worker: some finish their answers, and some must end in a hurry.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.endings import ANSWER_TIMEOUT, finishes_answers, press_ctrl_c, terminate
from tests.support.processes import ended, in_directory, left_over, processes, serving_alone
from tests.support.random_llama import LAYER_OPTIONS
from tests.support.serving import START_TIMEOUT, Server, environment, traitwatch
from traitwatch.processes import free_port

pytestmark = pytest.mark.engine


OPTIONS = ["--dtype", "float32", "--enforce-eager"]


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a short name, since the path of a socket is limited. `tmp_path` has the name of the test."""
    return tmp_path_factory.mktemp("d")


@pytest.mark.parametrize(
    ("end", "options"),
    [(terminate, ["--api-server-count", "2"]), (press_ctrl_c, ["--tensor-parallel-size", "2"])],
    ids=["two API processes", "Ctrl-C with two workers"],
)
def test_running_answers_are_finished_and_no_others_taken(
    end: Callable[[Server], None], options: list[str], model: Path, probes: Path, directory: Path
) -> None:
    """`test_scheduling` tries both signals with a single API process and a single worker."""
    slow = [sys.executable, "-m", "tests.support.slow", "serve", str(model), "--traits", str(probes)]
    command = [*slow, *LAYER_OPTIONS, *OPTIONS, "--drain-seconds", str(ANSWER_TIMEOUT), *options]
    # Each of two workers is bound to a core.
    cores = {"VLLM_CPU_OMP_THREADS_BIND": "0|1"} if "--tensor-parallel-size" in options else {}
    with serving_alone(in_directory(directory / "t", command, **cores), directory / "server.log") as server:
        finishes_answers(server, end)
    assert not left_over(directory / "t")
    assert "Scoring probe1" in server.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_server_is_up_ends_it(number: int, model: Path, probes: Path, directory: Path) -> None:
    """Without Traitwatch, vLLM's server would wait for its engine for ten minutes."""
    command = [*traitwatch("serve", model, "--traits", probes, *LAYER_OPTIONS), *OPTIONS, "--port", str(free_port())]
    command = in_directory(directory / "t", command)
    log = directory / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment(), stdout=out, stderr=out, start_new_session=True)
    server = Server("", log, process)
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while "(EngineCore pid=" not in log.read_text(errors="replace"):
            assert time.monotonic() < deadline, "no engine was started"
            time.sleep(0.1)
        process.send_signal(number)
        assert ended(server) == 0
    finally:
        for left in processes(server):
            left.kill()
    assert not left_over(directory / "t")
    assert "Interrupted while the server came up" in log.read_text(errors="replace")
