"""A program ends with all its child processes: with its context, and when its owner is killed."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from tests.support.waiting import until
from traitwatch.errors import ProcessError
from traitwatch.process_guard import end_session
from traitwatch.processes import check_port, free_port, running

DEADLINE = 60.0

# A server with a child and a grandchild. The child has its own process group, like vLLM's engines. A `deaf` child
# ignores SIGTERM, and nothing ends the grandchild. The server writes the ids of all three processes.
_SERVER = """
import os, signal, subprocess, sys
from http.server import HTTPServer, SimpleHTTPRequestHandler
sleep = "import time; time.sleep(600)"
child = f'''
import os, signal, subprocess, sys
os.setpgid(0, 0)
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(subprocess.Popen([sys.executable, "-c", {sleep!r}]).pid, flush=True)
{sleep}
'''
port, pids, *how = sys.argv[1:]
mine = subprocess.Popen([sys.executable, "-c", child, *how], stdout=subprocess.PIPE, text=True)
grandchild = int(mine.stdout.readline())
signal.signal(signal.SIGTERM, lambda *_: (mine.terminate(), os._exit(0)))
if "ctrl-c" in how:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
server = HTTPServer(("127.0.0.1", int(port)), SimpleHTTPRequestHandler)
with open(pids, "w") as file:
    print([os.getpid(), mine.pid, grandchild], file=file)
server.serve_forever()
"""

# Runs a program that interrupts this process at once, and writes the ids of the program and its guard, if they live.
_INTERRUPTED = """
import sys
from pathlib import Path
import psutil
from traitwatch.processes import running
log, port = sys.argv[1:]
command = ["sh", "-c", "kill -INT $PPID; exec sleep 600"]
try:
    with running("it", command, Path(log), ready=f"http://127.0.0.1:{port}", timeout=60):
        pass
except KeyboardInterrupt:
    print([child.pid for child in psutil.Process().children()])
"""

# Runs this server from a thread that ends. Writes a line when the server is ready, and waits.
_OWNER = """
import sys, threading, time
from pathlib import Path
from traitwatch.processes import running
log, port, seconds, *command = sys.argv[1:]
ready = f"http://127.0.0.1:{port}"
context = running("it", command, Path(log), ready=ready, timeout=60, end_seconds=float(seconds))
thread = threading.Thread(target=context.__enter__)
thread.start()
thread.join()
print("up", flush=True)
time.sleep(600)
"""


def server(port: int, pids: Path, *how: str) -> list[str]:
    return [sys.executable, "-c", _SERVER, str(port), str(pids), *how]


def read(pids: Path) -> list[psutil.Process]:
    return [psutil.Process(pid) for pid in json.loads(pids.read_text())]


@pytest.fixture
def pids(tmp_path: Path) -> Iterator[Path]:
    """The file of the server's ids. At the end, the processes that a failed test has left are killed."""
    path = tmp_path / "pids"
    yield path
    for pid in json.loads(path.read_text()) if path.exists() else []:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def is_up(process: psutil.Process) -> bool:
    """Return whether a process runs. A zombie of a container without init does not run."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@contextmanager
def owner_of(pids: Path, kind: str, end_seconds: int) -> Iterator[tuple[subprocess.Popen[bytes], list[psutil.Process]]]:
    """Run a process that runs a server; yield it when the server is up, with the server's processes."""
    port = free_port()
    log = pids.with_name("log")
    owner = [sys.executable, "-c", _OWNER, str(log), str(port), str(end_seconds), *server(port, pids, kind)]
    with subprocess.Popen(owner, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        yield parent, read(pids)


def test_all_processes_end_with_an_owner_that_is_killed(pids: Path) -> None:
    with owner_of(pids, "deaf", 60) as (parent, started):
        with_guard = psutil.Process(parent.pid).children()
        time.sleep(0.5)
        assert all(is_up(process) for process in started), "the end of the starting thread must not end the processes"
        parent.kill()
    until(lambda: not any(is_up(process) for process in [*started, *with_guard]))


def test_an_orphan_has_as_long_to_end_as_its_owner_would_give(pids: Path) -> None:
    with owner_of(pids, "ctrl-c", 2) as (parent, started):
        parent.kill()
    orphaned = time.monotonic()
    until(lambda: not any(is_up(process) for process in started))
    assert 1 < time.monotonic() - orphaned < 30, "the leader ignores SIGTERM: only the end of its time ends it"


def test_all_processes_end_with_their_context(tmp_path: Path, pids: Path) -> None:
    port = free_port()
    with running(
        "it", server(port, pids), tmp_path / "log", ready=f"http://127.0.0.1:{port}", timeout=DEADLINE
    ) as process:
        started = read(pids)
        assert started[0].pid == process.pid
        assert os.getsid(process.pid) == process.pid
        # Only the kernel would end the grandchild. The wait for the grandchild is a minute.
        started[2].terminate()
    assert process.returncode == 0
    assert not any(is_up(one) for one in started)
    # Other children of this process are servers that other tests share, and the guards of these servers.
    guarded = [one.info["cmdline"][-2:-1] for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"]]
    assert [str(process.pid)] not in guarded, "the guard of the server must not stay"


def test_a_process_that_does_not_end_in_time_is_killed(tmp_path: Path, pids: Path) -> None:
    with subprocess.Popen(server(free_port(), pids, "deaf"), start_new_session=True) as process:
        until(lambda: pids.exists() and pids.read_text().endswith("\n"))
        started = read(pids)
        end_session(psutil.Process(process.pid), DEADLINE, 0.5)
    assert process.returncode == 0, "the server itself must end on SIGTERM"
    assert not any(is_up(one) for one in started)


def test_a_session_whose_leader_has_ended_is_ended_too(pids: Path) -> None:
    with subprocess.Popen(server(free_port(), pids, "deaf"), start_new_session=True) as process:
        until(lambda: pids.exists() and pids.read_text().endswith("\n"))
        started, leader = read(pids), psutil.Process(process.pid)
        process.kill()
    end_session(leader, DEADLINE, 0.5)
    assert not any(is_up(one) for one in started)


def test_ctrl_c_during_the_end_kills_at_once(pids: Path) -> None:
    ending = (
        "import psutil, sys; from traitwatch.process_guard import end_session; print(flush=True);"
        "end_session(psutil.Process(int(sys.argv[1])), 600, 600)"
    )
    with subprocess.Popen(server(free_port(), pids, "deaf", "ctrl-c"), start_new_session=True) as process:
        until(lambda: pids.exists() and pids.read_text().endswith("\n"))
        started = read(pids)
        command = [sys.executable, "-c", ending, str(process.pid)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
            assert owner.stdout is not None
            assert select.select([owner.stdout], [], [], DEADLINE)[0]
            time.sleep(0.5)
            assert all(is_up(one) for one in started)
            owner.send_signal(signal.SIGINT)
            assert owner.wait(DEADLINE) == 0
    assert process.returncode == -signal.SIGKILL
    assert not any(is_up(one) for one in started)


def test_ctrl_c_just_after_the_start_leaves_no_process(tmp_path: Path) -> None:
    for _ in range(5):
        command = [sys.executable, "-c", _INTERRUPTED, str(tmp_path / "log"), str(free_port())]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE)
        assert (done.stdout, done.stderr) == ("[]\n", "")


def serve_files(port: int) -> list[str]:
    return [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]


def test_a_program_runs_until_its_context_ends(tmp_path: Path) -> None:
    port = free_port()
    with running("it", serve_files(port), tmp_path / "log", ready=f"http://127.0.0.1:{port}", timeout=DEADLINE):
        socket.create_connection(("127.0.0.1", port)).close()
        end_of_the_block = time.monotonic()
    assert time.monotonic() - end_of_the_block < 50, "the program had to be killed"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_program_that_ends_is_not_waited_for(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no'); raise SystemExit(3)"]
    ready = f"http://127.0.0.1:{free_port()}"
    started = time.monotonic()
    with (
        pytest.raises(ProcessError, match=r"^the program ended with status 3 before it answered:\nno$"),
        running("the program", command, tmp_path / "log", ready=ready, timeout=60),
    ):
        pass
    assert time.monotonic() - started < 30
    assert (tmp_path / "log").read_text() == "no\n"


def test_a_program_that_never_answers_is_ended(tmp_path: Path) -> None:
    port = free_port()
    waited: list[float] = []
    program = running(
        "the program",
        serve_files(port),
        tmp_path / "log",
        ready=f"http://127.0.0.1:{port}/no",
        timeout=6,
        waiting=waited.append,
        excerpt=lambda log: f"see {log.name}",
    )
    with pytest.raises(ProcessError, match=r"^the program did not answer within 6 seconds:\nsee log$"), program:
        pass
    assert waited == sorted(waited)
    assert 0 <= waited[0] < waited[-1] <= 6
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@contextmanager
def another_program(port: int = 0) -> Iterator[int]:
    """A server that is not started by `running`; yields its port."""
    with ThreadingHTTPServer(("127.0.0.1", port), SimpleHTTPRequestHandler) as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.1})
        thread.start()
        try:
            yield other.server_port
        finally:
            other.shutdown()
            thread.join()


def test_a_port_of_another_program_is_refused_before_the_start(tmp_path: Path) -> None:
    with another_program() as port:
        program = running("it", serve_files(port), tmp_path / "log", ready=f"http://127.0.0.1:{port}", timeout=DEADLINE)
        with pytest.raises(ProcessError, match=f"^port {port} of 127.0.0.1 is taken by another program; "), program:
            pass
    assert not (tmp_path / "log").exists()


def test_an_answer_of_another_program_is_not_taken_for_an_answer_of_ours(tmp_path: Path) -> None:
    port = free_port()
    waits = [sys.executable, "-c", "import time; time.sleep(600)"]
    message = f"^another program took port {port} of 127.0.0.1 while the program started; start the program again.$"
    with ExitStack() as stack:

        def take_port(seconds: float) -> None:
            if not taken:
                taken.append(stack.enter_context(another_program(port)))

        taken: list[int] = []
        ready = f"http://127.0.0.1:{port}"
        program = running("the program", waits, tmp_path / "log", ready=ready, timeout=DEADLINE, waiting=take_port)
        with pytest.raises(ProcessError, match=message), program:
            pass


@pytest.mark.parametrize(
    ("host", "port", "reason"),
    [
        ("127.0.0.1", 70000, "port must be 0-65535"),
        ("127.0.0.1", -1, "port must be 0-65535"),
        ("192.0.2.1", 8000, "Cannot assign requested address"),
        ("no.such.name.invalid", 8000, "not known|resolution"),
        ("a..b", 8000, "label|not known|resolution"),
        ("a\0b", 8000, "null"),
        ("ü" * 80, 8000, "encoding"),
        ("::ffff:300.0.0.1", 8000, "family|not known|resolution"),
    ],
)
def test_an_address_that_nobody_can_listen_on_is_a_sentence(host: str, port: int, reason: str) -> None:
    with pytest.raises(ProcessError, match=rf"^port {port} of {re.escape(host)} cannot be used: .*({reason})"):
        check_port(host, port)


def test_the_first_wanted_port_that_is_free_is_chosen() -> None:
    wanted = free_port()
    assert free_port(wanted) == wanted
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", wanted))
        taken.listen()
        other = free_port(wanted)
        assert other != wanted
        assert free_port(wanted, other) == other
