"""A program that the dashboards run ends with them."""

import subprocess
import sys
from pathlib import Path

import psutil

from traitwatch.dashboard_processes import free_port, running

# Runs a web server, and says its pid when it answers.
_RUNNER = """
import sys, time
from pathlib import Path
from traitwatch.dashboard_processes import running
port, log = sys.argv[1:]
command = [sys.executable, "-m", "http.server", port, "--bind", "127.0.0.1"]
with running("it", command, Path(log), ready=f"http://127.0.0.1:{port}", timeout=60):
    print("up", flush=True)
    time.sleep(600)
"""


def test_it_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _RUNNER, str(free_port()), str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        (program,) = psutil.Process(parent.pid).children()
        parent.kill()
    program.wait(60)


def test_it_ends_with_its_context(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    with running("it", command, tmp_path / "log", ready=f"http://127.0.0.1:{port}", timeout=60):
        (program,) = [p for p in psutil.Process().children() if str(port) in p.cmdline()]
    assert not program.is_running()
