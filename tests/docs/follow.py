"""Follows a page as its reader would: its bash blocks, from top to bottom, in one shell.

The shell reads a script in which every command stands in the line that it has on the page, and ends at the first one
that fails, naming the line. Whatever it started is in its session, where it is found when the shell has ended: what is
still there then was left behind by the page, and is ended here.
"""

import contextlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.docs.fenced import code_lines

# What a login shell has, and where this machine gets its packages from.
_KEPT = ("HOME", "PATH", "TERM", "LANG", "SSL_CERT_FILE", "TRAITWATCH_CACHE")
_KEPT_PREFIXES = ("PIP_", "UV_", "http_", "https_", "no_", "HTTP_", "HTTPS_", "NO_")
_STRICT = "set -eEo pipefail; trap 'echo \"{name}:$LINENO: failed with status $?: $BASH_COMMAND\" >&2' ERR"
# Seconds in which what was told to end has to be gone.
_ENDING = 30.0


@dataclass(frozen=True)
class Followed:
    """What came of a page.

    Attributes:
        status: the shell's exit status.
        output: what it printed.
        left: command lines of what still ran after the page's last command.
    """

    status: int
    output: str
    left: list[str]


def follow(page: Path, directory: Path, variables: Mapping[str, str], time_limit: float) -> Followed:
    """Run a page's bash blocks.

    Args:
        page: the page. Its first line has to be text: the shell's options take its place.
        directory: where the shell begins.
        variables: what is set beside the environment of a login shell.
        time_limit: seconds; after them the shell is ended, and its status is that of a signal.
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
    """Return the environment without the virtual environment and whatever else the tests were started with."""
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    own = os.environ.get("VIRTUAL_ENV", "-")
    kept["PATH"] = os.pathsep.join(p for p in kept["PATH"].split(os.pathsep) if not p.startswith(own))
    return kept


def _session(leader: int) -> list[psutil.Process]:
    """Return the processes of a session, whoever their parents are by now."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (OSError, psutil.Error):
            continue
    return found


def _end(leader: int) -> list[str]:
    """End the processes of a session that did not end by themselves in a while; return their command lines."""
    psutil.wait_procs(_session(leader), timeout=_ENDING)
    lines: list[str] = []
    # Anew each time: one that is ended may just have started another.
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
