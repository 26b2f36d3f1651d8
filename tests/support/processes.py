"""Finds the processes of a server, and how the server ended.

A server has a session of its own. So its processes are found even when their parents are gone.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support.serving import Server, serving

# vLLM looks for a dead engine every 5 seconds, and gives processes 5 more to end. The rest is for a busy machine.
END_TIMEOUT = 120.0


def in_directory(directory: Path, command: Sequence[str], **variables: str) -> list[str]:
    """Return `command` with environment variables, and with `directory` for its temporary files."""
    directory.mkdir()
    return ["env", f"TMPDIR={directory}", *(f"{name}={value}" for name, value in variables.items()), *command]


@contextmanager
def serving_alone(command: Sequence[str], log: Path) -> Iterator[Server]:
    """Run a server as `serving` does. Kill the processes that are left where a test has failed."""
    server = None
    try:
        with serving(command, log) as server:
            yield server
    finally:
        for process in processes(server) if server else []:
            process.kill()


def processes(server: Server) -> list[psutil.Process]:
    """Return the processes of a server's session."""
    return [process for process in psutil.process_iter() if _session(process) == server.process.pid]


def process(server: Server, title: str) -> psutil.Process:
    """Return the process of a server with this title of vLLM's."""
    (found,) = [p for p in processes(server) if p.cmdline()[:1] and p.cmdline()[0].split() == [title]]
    return found


def ended(server: Server, timeout: float = END_TIMEOUT) -> int:
    """Wait until a server has ended, and assert that none of its processes stays. Return its exit status."""
    deadline = time.monotonic() + timeout
    status = server.process.wait(timeout)
    while (left := processes(server)) and time.monotonic() < deadline:
        psutil.wait_procs(left, timeout=0.2)
    assert not left, f"of a server that ended with status {status} stay {[' '.join(p.cmdline()) for p in left]}"
    return status


def sockets(directory: Path) -> list[Path]:
    """Return the directories of our sockets in `directory`, which has a server's temporary files."""
    return list(directory.glob("traitwatch-*"))


def left_over(directory: Path) -> list[Path]:
    """Return the temporary files of a server that has ended, without those of torch and vLLM.

    torch keeps its cache on purpose. vLLM kills an engine that takes more than ten seconds to end. Then the file by
    which the engine's processes found one another stays, with plain vLLM too.
    """
    return [path for path in directory.iterdir() if not path.name.startswith(("torchinductor_", "vllm_dist_"))]


def _session(process: psutil.Process) -> int | None:
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else os.getsid(process.pid)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return None
