"""Prepares a process of ours at its start: it ends when the launcher has ended, and our loggers get vLLM's handlers.

When the launcher is killed, vLLM leaves processes running: its engines wait for an API process for ever. No code of
ours runs in the process of an engine. So each worker watches for its engine, and each API process for itself: a thread
sleeps until the launcher has ended. Then the thread ends a child of the launcher: this process, or the parent of this
process. It does nothing for workers on other machines or in other containers, nor on systems without file descriptors
of processes.
"""

import contextlib
import logging
import os
import platform
import select
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

# Our loggers: the ground and the server.
_OURS = ("traitwatch", "traitwatch_server")
# Seconds that a process has to end by itself, as in vLLM.
_GRACE = 5.0


@dataclass(frozen=True)
class ProcessReference:
    """A process of any machine or container.

    Attributes:
        pid: its id, in the system `system`.
        system: the boot of the kernel and the namespace of process ids. Another machine or container has another, and
            the same id is another process there.
    """

    pid: int
    system: str

    @classmethod
    def of_this(cls) -> "ProcessReference":
        """Return the reference of this process."""
        return cls(os.getpid(), _system())


def end_with(launcher: ProcessReference) -> None:
    """End this process, or the engine that it works for, when the launcher has ended.

    Args:
        launcher: the launcher. In the launcher itself, and in another system, this function does nothing.
    """
    if launcher.system != _system():
        return
    child = _child_of(launcher.pid)
    if child is None or not hasattr(os, "pidfd_open"):
        return
    descriptors = os.pidfd_open(launcher.pid), os.pidfd_open(child)
    threading.Thread(target=_watch, args=descriptors, name="traitwatch-guard", daemon=True).start()


def _system() -> str:
    """Return the boot of the kernel and this process's namespace of process ids; the host's name without /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def _child_of(launcher: int) -> int | None:
    """Return the child of the launcher that is this process or its parent; None where neither is one."""
    pid, parent = os.getpid(), os.getppid()
    if parent == launcher:
        return pid
    return parent if _parent_of(parent) == launcher else None


def _parent_of(pid: int) -> int | None:
    """Return the id of a process's parent; None where the system has no such process, or no /proc."""
    try:
        # The name is in brackets, and may have brackets in it. After it come the state and the parent.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _watch(launcher: int, child: int) -> None:
    """Wait for the end of the launcher, then end its child. Both are file descriptors of processes."""
    _ended(launcher, None)
    logger.error("The process that started this server has ended; the processes that it started end too.")
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(child, signal.SIGTERM)
        # An API process may wait for ever for an answer that its engine has not finished.
        if not _ended(child, _GRACE):
            signal.pidfd_send_signal(child, signal.SIGKILL)


def _ended(process: int, timeout: float | None) -> bool:
    """Wait for the end of a process, given by a file descriptor; return False after `timeout` seconds."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(None if timeout is None else timeout * 1000))


def log_with_vllm() -> None:
    """Give our loggers the handlers and the level of vLLM's, in this process.

    By themselves our loggers would drop records below a warning, and print no time.
    """
    theirs = logging.getLogger("vllm")
    for name in _OURS:
        ours = logging.getLogger(name)
        ours.setLevel(theirs.level)
        ours.handlers = list(theirs.handlers)
