"""`traitwatch demo` and `traitwatch demo-alerts` refuse what cannot work before they start anything."""

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from traitwatch.cli import main
from traitwatch_dashboards.demo import server

TRAITWATCH = [sys.executable, "-P", "-m", "traitwatch"]


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


@pytest.mark.parametrize("command", ["demo", "demo-alerts"])
@pytest.mark.parametrize("port", ["0", "-1", "70000"])
def test_a_port_that_does_not_exist_is_refused(command: str, port: str) -> None:
    done = CliRunner().invoke(main, [command, "--port", port])
    assert done.exit_code == 2
    assert "Invalid value for '--port'" in done.output


def test_a_port_of_another_program_is_refused(taken: int) -> None:
    done = CliRunner().invoke(main, ["demo", "--port", str(taken)])
    assert done.exit_code == 1
    assert done.output == (
        f"Error: port {taken} of 127.0.0.1 is taken by another program; end that program, or choose another port.\n"
    )


@pytest.mark.parametrize("closed", [">&-", "2>&- <&-"])
def test_a_closed_standard_stream_is_no_traceback(taken: int, closed: str) -> None:
    line = " ".join([*TRAITWATCH, "demo", "--port", str(taken), closed])
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr


def test_a_key_of_another_server_does_not_lock_the_demonstration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "key-of-another-server")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    environment = server._environment()
    assert "VLLM_API_KEY" not in environment
    assert environment["VLLM_LOGGING_LEVEL"] == "DEBUG"
