"""A child of the launcher ends when the launcher is killed, and not before."""

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from traitwatch_server.process import ProcessReference

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no file descriptors of processes here")

DEADLINE = 20.0
# Each process starts the next process of the list and waits. The last process guards itself. All print their ids.
SCRIPT = """
import os, signal, subprocess, sys, time
from traitwatch_server.process import ProcessReference, end_with

def main(depth, launcher):
    print(os.getpid(), flush=True)
    if depth:
        arguments = [sys.argv[1], str(depth - 1), str(launcher or os.getpid()), *sys.argv[4:]]
        subprocess.Popen([sys.executable, "-c", sys.argv[1], *arguments])
    else:
        system = "another machine" if "elsewhere" in sys.argv else ProcessReference.of_this().system
        end_with(ProcessReference(launcher, system))
        print("guarded", flush=True)
    time.sleep(60)

if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
main(int(sys.argv[2]), int(sys.argv[3]))
"""


@contextlib.contextmanager
def processes(depth: int, *how: str) -> Iterator[list[int]]:
    """Run a launcher, its child, and for a depth of 2 also the child's child. The last one is guarded."""
    command = [sys.executable, "-c", SCRIPT, SCRIPT, str(depth), "0", *how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as launcher:
        assert launcher.stdout is not None
        lines = [launcher.stdout.readline().strip() for _ in range(depth + 2)]
        try:
            assert lines[-1] == "guarded"
            yield [int(line) for line in lines[:-1]]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(launcher.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "how", [(1,), (2,), (2, "deaf")], ids=["a child", "a child's child", "one that does not listen to SIGTERM"]
)
def test_the_launchers_child_ends_with_it(how: tuple[int, *tuple[str, ...]]) -> None:
    with processes(*how) as pids:
        child = os.pidfd_open(pids[1])
        assert not ended(child, 0.2)
        os.kill(pids[0], signal.SIGKILL)
        assert ended(child, DEADLINE)
        os.close(child)


def test_a_launcher_of_another_machine_or_container_is_not_taken_for_a_process_with_its_id_here() -> None:
    with processes(1, "elsewhere") as pids:
        child = os.pidfd_open(pids[1])
        os.kill(pids[0], signal.SIGKILL)
        assert not ended(child, 1)
        os.close(child)


def test_another_container_is_another_system() -> None:
    """A container has a namespace of process ids of its own, but the kernel and the boot of its host."""
    ask = "from traitwatch_server.process import ProcessReference as p; print(p.of_this().system)"
    here = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    assert here == ProcessReference.of_this().system
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    inside = subprocess.run([*unshare, sys.executable, "-c", ask], capture_output=True, text=True, check=False)
    if inside.returncode != 0:
        pytest.skip(f"this system makes no namespace here: {inside.stderr.strip()}")
    assert inside.stdout.strip() != here


def ended(descriptor: int, timeout: float) -> bool:
    """Wait for the end of a process."""
    return bool(select.select([descriptor], [], [], timeout)[0])
