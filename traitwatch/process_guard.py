"""Ends the processes of a session in order, and watches for the end of the process that owns the session.

A child of ours leads a session of its own. Each process that the child starts belongs to that session, even where the
process makes a process group of its own, as vLLM's engines do. `end_session` ends them all.

An owner that is killed cannot end its child. So the owner starts this module as a program beside the child: `python -m
traitwatch.process_guard OWNER LEADER SECONDS`. The program is a child of the owner. When the owner ends, the program
becomes the child of another process. Then the program ends the session. The kernel's own signal at the end of a parent
(`PR_SET_PDEATHSIG`) would not do: that signal comes when the *thread* ends that started the child, and the child's own
children do not get it.
"""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import psutil  # type: ignore[import-untyped]

_POLL_SECONDS = 0.2
# Orphaned processes beside the leader: nothing waits for an answer of theirs once the leader has ended.
_ORPHAN_MEMBERS_SECONDS = 10.0


def members(leader: psutil.Process) -> list[psutil.Process]:
    """Return the processes of a session.

    Processes that ended and were not collected, as in a container without init, do not count.

    Args:
        leader: the process that leads the session. It may have ended.
    """
    if psutil.pid_exists(leader.pid) and not leader.is_running():
        # The system has given the number of the leader to another process: the session is empty.
        return []
    found = []
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError):
            if os.getsid(process.pid) == leader.pid and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end_session(leader: psutil.Process, leader_seconds: float, members_seconds: float) -> None:
    """End a session in order, and wait until none of its processes is left.

    The leader gets SIGTERM and ends the others in its own way. Where that takes too long, or where Ctrl-C comes
    meanwhile, every process that is left is killed.

    Args:
        leader: the process that leads the session. It may have ended.
        leader_seconds: how long the leader may take to end.
        members_seconds: how long the other processes may take after the end of the leader.
    """
    try:
        if leader in members(leader):
            with suppress(psutil.NoSuchProcess):
                leader.terminate()
        _wait_until(lambda: leader not in members(leader), leader_seconds)
        _wait_until(lambda: not members(leader), members_seconds)
    except (TimeoutError, KeyboardInterrupt):
        # A process may start another while its session is killed.
        while left := members(leader):
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(_POLL_SECONDS / 10)


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(_POLL_SECONDS)


def _guard(owner: int, leader: int, seconds: float) -> None:
    """End the session of `leader` once `owner` is no longer the parent of this process.

    Args:
        owner: process id of the owner.
        leader: process id of the session's leader.
        seconds: how long the leader may take to end: as long as the owner would give.
    """
    try:
        process = psutil.Process(leader)
    except psutil.NoSuchProcess:
        return
    while os.getppid() == owner:
        time.sleep(_POLL_SECONDS)
    end_session(process, seconds, _ORPHAN_MEMBERS_SECONDS)


if __name__ == "__main__":
    _guard(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
