"""Ends what vLLM leaves running when the launcher is killed: its engines wait for an API process for ever.

An engine's process is vLLM's alone, so each of its workers watches for it, as each API process does for itself: a
thread sleeps until the launcher is gone, and then ends that child of the launcher which its process is, or is a child
of. Workers on other machines, and systems without file descriptors of processes, are left as vLLM has them.
"""

import contextlib
import logging
import os
import select
import signal
import threading
from pathlib import Path

logger = logging.getLogger(__name__)

# Seconds that a process has to end by itself; vLLM's own.
_GRACE = 5.0


def end_with(launcher: int) -> None:
    """See to it that what this process belongs to ends when the launcher has ended.

    Args:
        launcher: process id of the launcher; where this is it, nothing is to be done.
    """
    child = _child_of(launcher)
    if child is None or not hasattr(os, "pidfd_open"):
        return
    descriptors = os.pidfd_open(launcher), os.pidfd_open(child)
    threading.Thread(target=_watch, args=descriptors, name="traitwatch-guard", daemon=True).start()


def _child_of(launcher: int) -> int | None:
    """Return the child of the launcher that this process is, or is a child of."""
    pid, parent = os.getpid(), os.getppid()
    if parent == launcher:
        return pid
    return parent if _parent_of(parent) == launcher else None


def _parent_of(pid: int) -> int | None:
    """Return the id of a process's parent; None where the system does not tell."""
    try:
        # After the name, which is in brackets and may have any others in it: the state, then the parent.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _watch(launcher: int, child: int) -> None:
    """Wait for the end of one process, then end another; both are file descriptors."""
    _ended(launcher, None)
    logger.error("The process that started this server is gone; what it started ends too.")
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(child, signal.SIGTERM)
        # An API process may wait for ever for an answer that its engine has not finished.
        if not _ended(child, _GRACE):
            signal.pidfd_send_signal(child, signal.SIGKILL)


def _ended(process: int, timeout: float | None) -> bool:
    """Wait for the end of a process, a file descriptor; False when `timeout` seconds were not enough."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(None if timeout is None else timeout * 1000))


_OURS = ("traitwatch", "traitwatch_server")


def log_with_vllm() -> None:
    """Give our loggers the handlers and the level of vLLM's, in this process.

    By themselves they would say nothing below a warning, and no time.
    """
    theirs = logging.getLogger("vllm")
    for name in _OURS:
        ours = logging.getLogger(name)
        ours.setLevel(theirs.level)
        ours.handlers = list(theirs.handlers)
