"""A child of the launcher ends when the launcher is killed, and not before."""

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no file descriptors of processes here")

DEADLINE = 20.0
# Each process starts the next process of the list and waits. The last process guards itself. All print their ids.
SCRIPT = """
import os, signal, subprocess, sys, time
from traitwatch_server.process import end_with

def main(depth, launcher):
    print(os.getpid(), flush=True)
    if depth:
        arguments = [sys.argv[1], str(depth - 1), str(launcher or os.getpid()), *sys.argv[4:]]
        subprocess.Popen([sys.executable, "-c", sys.argv[1], *arguments])
    else:
        end_with(launcher)
        print("guarded", flush=True)
    time.sleep(60)

if sys.argv[4:]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
main(int(sys.argv[2]), int(sys.argv[3]))
"""


@pytest.fixture(
    params=[(1,), (2,), (2, "deaf")], ids=["a child", "a child's child", "one that does not listen to SIGTERM"]
)
def pids(request: pytest.FixtureRequest) -> Iterator[list[int]]:
    """The launcher and its child, and in the second case also the child's child. The last one is guarded."""
    depth, *deaf = request.param
    command = [sys.executable, "-c", SCRIPT, SCRIPT, str(depth), "0", *deaf]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as launcher:
        assert launcher.stdout is not None
        lines = [launcher.stdout.readline().strip() for _ in range(depth + 2)]
        assert lines[-1] == "guarded"
        yield [int(line) for line in lines[:-1]]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)


def test_the_launchers_child_ends_with_it(pids: list[int]) -> None:
    child = os.pidfd_open(pids[1])
    assert not ended(child, 0.2)
    os.kill(pids[0], signal.SIGKILL)
    assert ended(child, DEADLINE)
    os.close(child)


def ended(descriptor: int, timeout: float) -> bool:
    """Wait for the end of a process."""
    return bool(select.select([descriptor], [], [], timeout)[0])
