"""The processes of a server, and how it ended. Its session is its own, so that orphans are seen too."""

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
    """Return `command` with its temporary files in a directory of their own, and with environment variables."""
    directory.mkdir()
    return ["env", f"TMPDIR={directory}", *(f"{name}={value}" for name, value in variables.items()), *command]


@contextmanager
def serving_alone(command: Sequence[str], log: Path) -> Iterator[Server]:
    """Run a server as `serving` does; what is left of it after its end, where a test has failed, is killed."""
    server = None
    try:
        with serving(command, log) as server:
            yield server
    finally:
        for process in processes(server) if server else []:
            process.kill()


def processes(server: Server) -> list[psutil.Process]:
    """Return the processes of a server, whoever is their parent."""
    return [process for process in psutil.process_iter() if _session(process) == server.process.pid]


def process(server: Server, title: str) -> psutil.Process:
    """Return the one process of a server that vLLM gave this title."""
    (found,) = [p for p in processes(server) if p.cmdline()[:1] and p.cmdline()[0].split() == [title]]
    return found


def ended(server: Server, timeout: float = END_TIMEOUT) -> int:
    """Wait until a server has ended; assert that no process of it stays; return its exit status."""
    deadline = time.monotonic() + timeout
    status = server.process.wait(timeout)
    while (left := processes(server)) and time.monotonic() < deadline:
        psutil.wait_procs(left, timeout=0.2)
    assert not left, f"of a server that ended with status {status} stay {[' '.join(p.cmdline()) for p in left]}"
    return status


def sockets(directory: Path) -> list[Path]:
    """Return our directories among a server's temporary files, which are in `directory`."""
    return list(directory.glob("traitwatch-*"))


def left_over(directory: Path) -> list[Path]:
    """Return what stays in a directory of temporary files, but for what is not ours to end.

    torch keeps its cache on purpose. Where an engine takes more than ten seconds to end, vLLM kills it, plain vLLM too,
    and the file by which its processes found one another stays.
    """
    return [path for path in directory.iterdir() if not path.name.startswith(("torchinductor_", "vllm_dist_"))]


def _session(process: psutil.Process) -> int | None:
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else os.getsid(process.pid)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return None
