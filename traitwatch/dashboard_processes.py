"""Runs a program that serves: its output in a log, until it answers, and ended by its own pid."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from traitwatch_dashboards.errors import DashboardError

_STOP_TIMEOUT = 30.0
# Of prctl(2): the signal that a process gets when its parent ends, however that ends.
_PR_SET_PDEATHSIG = 1


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    log: Path,
    *,
    ready: str,
    timeout: float,
    environment: Mapping[str, str] | None = None,
    waiting: Callable[[float], None] = lambda seconds: None,
) -> Iterator[None]:
    """Run a program while the context lasts; enter it when the program answers.

    On Linux it also ends where this process is killed, or the thread that has entered the context ends.

    Args:
        name: what to call it in an error.
        command: the program and its arguments.
        log: where its output goes.
        ready: a URL that answers 200 once it is ready.
        timeout: seconds that it may take for that.
        environment: its environment; our own where None.
        waiting: is told from time to time for how many seconds it has been waited.

    Raises:
        DashboardError: it ended, or did not answer in time; with the end of its log.
    """
    with log.open("wb") as output:
        # A session of its own: Ctrl-C reaches us alone, and we end the program in order.
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=_ending_with(os.getpid()) if sys.platform == "linux" else None,
        )
    try:
        started = time.monotonic()
        while not _answers(ready):
            seconds = time.monotonic() - started
            if process.poll() is not None or seconds > timeout:
                raise DashboardError(f"{name} did not start:\n{tail(log)}")
            waiting(seconds)
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port(*wanted: int) -> int:
    """Return the first of the ports that are wanted on 127.0.0.1 which is free, or else any that is."""
    for port in (*wanted, 0):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(sock.getsockname()[1])
    raise DashboardError("no free port on 127.0.0.1.")


def tail(log: Path) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def _ending_with(parent: int) -> Callable[[], None]:
    """Return what a new process does to be told to end when its parent has ended, a parent that was killed too."""
    prctl = ctypes.CDLL(None).prctl

    def ending() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)

    return ending


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False
