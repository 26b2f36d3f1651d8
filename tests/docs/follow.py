"""Follows a page like a reader: runs its bash blocks, from top to bottom, in one shell.

The shell reads a script. In the script, every command has the same line number as on the page. The shell ends at the
first failed command, and names its line. All processes of the page are in the shell's session. `follow` looks for
processes that still run when the shell has ended: the page left them behind. `follow` ends these processes.
"""

import contextlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.docs.fenced import code_lines

# Variables of a login shell, variables that name this machine's package indexes, and how threads wait (Makefile).
_LOGIN = ("HOME", "PATH", "TERM", "LANG", "SSL_CERT_FILE", "TRAITWATCH_CACHE", "OMP_WAIT_POLICY")
_INDEX_PREFIXES = ("PIP_", "UV_", "http_", "https_", "no_", "HTTP_", "HTTPS_", "NO_")
_STRICT = "set -eEo pipefail; trap 'echo \"{name}:$LINENO: failed with status $?: $BASH_COMMAND\" >&2' ERR"
# Seconds that a process has to end after a signal.
_ENDING = 30.0


@dataclass(frozen=True)
class Followed:
    """The result of following a page.

    Attributes:
        status: the shell's exit status.
        output: the output of the shell.
        left: the command lines of processes that still ran after the page's last command.
    """

    status: int
    output: str
    left: list[str]


def follow(page: Path, directory: Path, variables: Mapping[str, str], time_limit: float) -> Followed:
    """Run a page's bash blocks.

    Args:
        page: the page. Its first line must be text: the shell's options take its place.
        directory: the directory in which the shell begins.
        variables: variables beside the environment of a login shell.
        time_limit: seconds. After this time `follow` kills the shell, and the status is that of a signal.
    """
    script = directory.parent / f"{page.stem}.sh"
    script.write_text(_script(page))
    output = directory.parent / f"{page.stem}.log"
    with output.open("wb") as log:
        shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc", str(script)],
            cwd=directory,
            env={**_login_environment(), **variables},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            shell.wait(time_limit)
        except subprocess.TimeoutExpired:
            shell.kill()
            shell.wait()
        finally:
            left = _end(shell.pid)
    return Followed(shell.returncode, output.read_text(errors="replace"), left if shell.returncode == 0 else [])


def _script(page: Path) -> str:
    lines = [""] * len(page.read_text("utf-8").splitlines())
    lines[0] = _STRICT.format(name=page.name)
    for line in code_lines(page):
        if line.language == "bash":
            lines[line.number - 1] = line.text
    return "\n".join([*lines, ""])


def _login_environment() -> dict[str, str]:
    """Return the environment of a login shell: without the virtual environment and other variables of the tests."""
    login = {name: value for name, value in os.environ.items() if name in _LOGIN or name.startswith(_INDEX_PREFIXES)}
    own = os.environ.get("VIRTUAL_ENV", "-")
    login["PATH"] = os.pathsep.join(p for p in login["PATH"].split(os.pathsep) if not p.startswith(own))
    return login


def _session(leader: int) -> list[psutil.Process]:
    """Return the processes of a session, with any parents."""
    members = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
        except (OSError, psutil.Error):
            continue
    return members


def _end(leader: int) -> list[str]:
    """Wait a while, end the processes of a session that still run, and return their command lines."""
    psutil.wait_procs(_session(leader), timeout=_ENDING)
    lines: list[str] = []
    # Look again each time: an ended process may just have started another process.
    while running := _session(leader):
        for process in running:
            with contextlib.suppress(psutil.NoSuchProcess):
                lines.append(" ".join(process.cmdline()))
                process.terminate()
        _, stubborn = psutil.wait_procs(running, timeout=_ENDING)
        for process in stubborn:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    return list(dict.fromkeys(lines))
