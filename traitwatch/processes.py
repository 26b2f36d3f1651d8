"""Runs a server as a subprocess of its own process group: waits until it answers, ends it and all that it started."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]

from traitwatch_server.errors import StartError

_POLL = 0.5
_STOP_TIMEOUT = 60.0
# vLLM loses a SIGTERM that comes while its engine starts, and has nobody's answer to finish then.
_STOP_TIMEOUT_UNSTARTED = 10.0


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        url: its address.
        process: what was run; its process group has its id.
    """

    url: str
    process: subprocess.Popen[bytes]


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str],
    port: int,
    log: Path,
    *,
    environment: Mapping[str, str],
    timeout: float,
    waiting: Callable[[float], None] = lambda seconds: None,
) -> Iterator[Running]:
    """Run `command`; yield the server once `/health` says yes; end it.

    Args:
        command: what to run; it listens on `port` of 127.0.0.1.
        port: where it listens.
        log: file that takes what it prints.
        environment: its environment variables.
        timeout: seconds that it may take to start.
        waiting: called with the seconds passed, while it starts.

    Raises:
        StartError: it ended, or did not answer in time.
    """
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        # A session of its own: Ctrl-C reaches us alone, and we end the server in order.
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=dict(environment), start_new_session=True
        )
    grace = _STOP_TIMEOUT_UNSTARTED
    try:
        started = time.monotonic()
        while not _answers(url):
            seconds = time.monotonic() - started
            if process.poll() is not None:
                raise StartError(f"the server ended with status {process.returncode} before it answered.")
            if seconds > timeout:
                raise StartError(f"the server did not answer within {timeout:.0f} seconds.")
            waiting(seconds)
            time.sleep(_POLL)
        grace = _STOP_TIMEOUT
        yield Running(url, process)
    finally:
        _end(process, grace)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def _end(process: subprocess.Popen[bytes], grace: float) -> None:
    """End a server in order, and wait for all that it started: the next one wants the memory.

    Where that takes longer than `grace` seconds, or a second Ctrl-C comes, its whole group is killed.
    """
    try:
        process.terminate()
        process.wait(grace)
        deadline = time.monotonic() + grace
        while members := _members(process.pid):
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"members {members} of a server's process group", grace)
            time.sleep(_POLL)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        # The group may have ended by itself meanwhile.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _members(group: int) -> list[int]:
    """Return the processes of a group; not those that ended and were not collected, as in a container without init."""
    members = []
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                members.append(process.pid)
    return members
