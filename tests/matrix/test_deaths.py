"""A process of the server that dies takes the whole server down, as a failure; and a signal ends it as vLLM's own."""

import contextlib
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.processes import END_TIMEOUT, ended, in_directory, process, serving_alone, sockets
from tests.support.random_llama import LAYER_OPTIONS
from tests.support.serving import MODEL_NAME, Server, plain_vllm, traitwatch

pytestmark = pytest.mark.engine

OPTIONS = ["--dtype", "float32", "--enforce-eager"]
TWO_API_PROCESSES = ["--api-server-count", "2"]
# So many that the answer is far from its end when a client on a busy machine has read its first events.
MAX_TOKENS, CHOICES = 900, 16
_READ = 10


def ours(model: Path, probes: Path, *options: str) -> list[str]:
    return [*traitwatch("serve", model, "--traits", probes, *LAYER_OPTIONS), *OPTIONS, *options]


@contextlib.contextmanager
def streaming(server: Server) -> Iterator[Iterator[str]]:
    """Be in the middle of a long stream; yield the rest of its events."""
    body = {
        "model": MODEL_NAME,
        "prompt": "A",
        "max_tokens": MAX_TOKENS,
        "ignore_eos": True,
        "n": CHOICES,
        "stream": True,
    }
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=END_TIMEOUT) as response:
        events = (line for line in response.iter_lines() if line.startswith("data: "))
        for _ in range(_READ):
            next(events)
        yield events


def kill(server: Server, victim: psutil.Process) -> None:
    """Kill a process while an answer is streamed; its client must learn that no more comes."""
    with streaming(server) as events, contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError):
        victim.kill()
        assert len(list(events)) < MAX_TOKENS * CHOICES - _READ


@pytest.mark.parametrize(
    ("title", "options"),
    [
        ("VLLM::EngineCore", []),
        ("VLLM::Worker_TP1", ["--tensor-parallel-size", "2"]),
        ("VLLM::EngineCore", TWO_API_PROCESSES),
    ],
)
def test_an_engine_or_a_rank_that_dies_takes_the_server_down(
    title: str, options: Sequence[str], model: Path, probes: Path, tmp_path: Path
) -> None:
    command = in_directory(tmp_path / "tmp", ours(model, probes, *options), VLLM_CPU_OMP_THREADS_BIND="0|1")
    with serving_alone(command, tmp_path / "server.log") as server:
        kill(server, process(server, title))
        assert ended(server) > 0
        assert not sockets(tmp_path / "tmp")


def test_a_launcher_that_is_killed_leaves_no_process(model: Path, probes: Path, tmp_path: Path) -> None:
    """vLLM's own would leave the engine, its worker and the API processes."""
    command = in_directory(tmp_path / "tmp", ours(model, probes, *TWO_API_PROCESSES))
    with serving_alone(command, tmp_path / "server.log") as server:
        # Its API processes are told to end, and may finish their answers.
        with streaming(server) as events, contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError):
            psutil.Process(server.process.pid).kill()
            list(events)
        assert ended(server) == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_as_it_ends_vllm(number: int, model: Path, probes: Path, tmp_path: Path) -> None:
    def status(name: str, command: list[str]) -> int:
        with serving_alone(in_directory(tmp_path / name, command), tmp_path / f"{name}.log") as server:
            # The client hangs up then: vLLM kills its engine, and may wait in vain for the end of a stream.
            with streaming(server):
                server.process.send_signal(number)
            return ended(server)

    with ThreadPoolExecutor() as pool:
        theirs = pool.submit(status, "plain", plain_vllm(model, *OPTIONS))
        mine = pool.submit(status, "ours", ours(model, probes))
    assert mine.result() == theirs.result()
    assert not sockets(tmp_path / "ours")
