"""Runs a server program as a child process: waits until the program answers, and ends all that it has started.

`running` gives two guarantees. When the context ends, the whole session of the program ends in order: SIGTERM to the
program, a wait, and then SIGKILL to whatever is left. When the process that owns the context is killed, the session
ends too: `traitwatch.process_guard` sees to that.

An answer on the port of a program proves nothing: the port may belong to another program. So `running` starts a program
only on a port that nobody listens on, and takes an answer as the program's only if a process of its session listens.
"""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil  # type: ignore[import-untyped]

from traitwatch.errors import ProcessError
from traitwatch.network import client_options
from traitwatch.process_guard import end_session, members

_POLL_SECONDS = 0.2
_ENDING = (signal.SIGINT, signal.SIGTERM)
_INSPECTOR_START_SECONDS = 120.0
# A server may finish its running answers: the default of `--drain-seconds`, and what follows the answers.
_END_SECONDS = 60.0
# vLLM loses a SIGTERM that comes while its engine starts. No answer is running then.
_END_SECONDS_BEFORE_READY = 10.0


def free_port(*wanted: int) -> int:
    """Return the first of the wanted ports of 127.0.0.1 that is free; where none of them is, any free port.

    Raises:
        ProcessError: no port is free.
    """
    for port in (*wanted, 0):
        with suppress(OSError):
            return _bound_port("127.0.0.1", port)
    raise ProcessError("no free port on 127.0.0.1.")


def check_port(host: str, port: int) -> None:
    """Check that a program can listen on a port.

    Args:
        host: name or address of this machine to listen on; empty for all addresses.
        port: the port.

    Raises:
        ProcessError: another program listens on the port, or this user may not.
    """
    try:
        _bound_port(host, port)
    except (OSError, OverflowError, TypeError, ValueError) as error:
        address = f"port {port} of {host or 'this machine'}"
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise ProcessError(
                f"{address} is taken by another program; end that program, or choose another port."
            ) from error
        reason = error.strerror if isinstance(error, OSError) else error
        raise ProcessError(f"{address} cannot be used: {reason}. Choose another address or port.") from error


def _bound_port(host: str, port: int) -> int:
    """Return the port that a program with these arguments would listen on; raise `OSError` where it could not."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        # Connections of a program that has ended do not count.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        return int(sock.getsockname()[1])


def traitwatch_command(*arguments: str) -> list[str]:
    """Return a command line of our command, for this Python. With `-P`, it imports nothing of the working directory."""
    return [sys.executable, "-P", "-m", "traitwatch", *arguments]


def keep_to_installed_modules() -> None:
    """Have each Python that this process or its children start search no working folder for modules, as with `-P`.

    vLLM reads a model's class in a Python that it starts with `-m`. In the working folder, this Python would import the
    user's own `numpy.py`. A value that the user has set stays.
    """
    os.environ.setdefault("PYTHONSAFEPATH", "1")


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text("utf-8", errors="replace").splitlines()[-lines:])


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
    excerpt: Callable[[Path], str] = tail,
    end_seconds: float = _END_SECONDS,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program while the context lasts; enter the context when the program answers.

    Args:
        name: the name of the program in an error.
        command: the program and its arguments.
        log: the file that takes the program's output.
        ready: a URL of the program, with a port, that answers 200 once the program is ready.
        timeout: seconds until then at most.
        environment: environment variables of the program; None for those of this process.
        waiting: called with the seconds that have passed, again and again until the program is ready.
        excerpt: returns the part of the log that an error quotes.
        end_seconds: how long the program may take to end, with the context or after its owner was killed.

    Yields:
        The process. It leads a session of its own, whose id is the id of the process.

    Raises:
        ProcessError: the program ended, or did not answer in time; or its port belongs to another program.
    """
    address = urlsplit(ready)
    host, port = address.hostname or "", address.port or 0
    check_port(host, port)
    grace = min(end_seconds, _END_SECONDS_BEFORE_READY)
    leader = guard = None
    try:
        with log.open("wb") as output, _signals_held():
            # In a session of its own: a terminal's Ctrl-C reaches this process alone, which then ends the program in
            # order.
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
            leader = psutil.Process(process.pid)
            guard = _start_guard(process.pid, end_seconds)
        started = time.monotonic()
        while not _is_ready(ready):
            seconds = time.monotonic() - started
            if process.poll() is not None:
                raise ProcessError(f"{name} ended with status {process.returncode} before it answered:\n{excerpt(log)}")
            if seconds > timeout:
                raise ProcessError(f"{name} did not answer within {timeout:.0f} seconds:\n{excerpt(log)}")
            waiting(seconds)
            time.sleep(_POLL_SECONDS)
        if not _listens(leader, port):
            raise ProcessError(f"another program took port {port} of {host} while {name} started; start {name} again.")
        grace = end_seconds
        yield process
    finally:
        if leader is not None:
            end_session(leader, grace, grace)
            process.wait()
        if guard is not None:
            guard.kill()
            guard.wait()


@contextmanager
def inspector(
    urls: list[str],
    port: int,
    log: Path,
    *,
    api_key: str | None = None,
    admin_key: str | None = None,
    auth: str | None = None,
    root_path: str | None = None,
) -> Iterator[str]:
    """Run the inspector (`traitwatch ui`) while the context lasts; yield its address when it answers.

    Args:
        urls: addresses of the servers that the inspector shows. They need not answer yet.
        port: the port of 127.0.0.1 that the inspector listens on.
        log: the file that takes the output.
        api_key: the API key of the servers. The keys go through the environment, where other users of the machine do
            not see them.
        admin_key: the admin key of the servers, for the latest spikes.
        auth: `user:password` that the page asks for; None for that of the environment, if there is one.
        root_path: the path under which a proxy serves the page.

    Raises:
        ProcessError: the inspector did not start.
    """
    command = traitwatch_command("ui", "--host", "127.0.0.1", "--port", str(port))
    for url in urls:
        command += ["--url", url]
    if root_path is not None:
        command += ["--root-path", root_path]
    keys = {"TRAITWATCH_API_KEY": api_key, "TRAITWATCH_ADMIN_KEY": admin_key}
    # The keys of the environment may be those of another server. A login there is meant for this page.
    environment = {name: value for name, value in os.environ.items() if name not in keys}
    given = keys | {"TRAITWATCH_UI_AUTH": auth}
    environment |= {name: value for name, value in given.items() if value is not None}
    address = f"http://127.0.0.1:{port}"
    with running(
        "the inspector",
        command,
        log,
        ready=f"{address}/traitwatch/health",
        timeout=_INSPECTOR_START_SECONDS,
        environment=environment,
    ):
        yield address


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM inside the block; they come at its end.

    A Ctrl-C just after the start of a child would leave the child, since nobody has noted its number yet. Only the main
    thread gets signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {which: signal.signal(which, lambda number, _: came.append(number)) for which in _ENDING}
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
        for number in came:
            signal.raise_signal(number)


def _start_guard(leader: int, seconds: float) -> subprocess.Popen[bytes]:
    """Start the program that ends the session of `leader` when this process has ended."""
    command = [sys.executable, "-P", "-m", "traitwatch.process_guard", str(os.getpid()), str(leader), str(seconds)]
    # Where this process is killed, the guard outlives it: a pipe that is read to its end must not wait for the guard.
    nothing = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)


def _listens(leader: psutil.Process, port: int) -> bool:
    """Return whether a process of the session of `leader` listens on a port; True where the system does not tell."""
    for member in members(leader):
        try:
            sockets = member.net_connections("tcp")
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied:
            return True
        if any(sock.status == psutil.CONN_LISTEN and sock.laddr.port == port for sock in sockets):
            return True
    return False


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, **client_options(url)).status_code == 200
    except httpx.TransportError:
        return False
