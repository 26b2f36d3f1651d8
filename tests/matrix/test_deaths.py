"""An engine that dies ends all API processes with a failure. A signal ends our server with vLLM's exit status."""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.endings import ENGINE, dies_with, streaming
from tests.support.processes import ended, in_directory, serving_alone, sockets
from tests.support.random_llama import LAYER_OPTIONS
from tests.support.serving import plain_vllm, traitwatch

pytestmark = pytest.mark.engine

OPTIONS = ["--dtype", "float32", "--enforce-eager"]


def ours(model: Path, probes: Path, *options: str) -> list[str]:
    return [*traitwatch("serve", model, "--traits", probes, *LAYER_OPTIONS), *OPTIONS, *options]


def test_an_engine_that_dies_takes_all_api_processes_down(model: Path, probes: Path, tmp_path: Path) -> None:
    """`test_scheduling` tries this with one API process. `test_parallel` kills a rank, and the launcher."""
    command = in_directory(tmp_path / "tmp", ours(model, probes, "--api-server-count", "2"))
    with serving_alone(command, tmp_path / "server.log") as server:
        dies_with(server, ENGINE)
        assert not sockets(tmp_path / "tmp")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_as_it_ends_vllm(
    number: int, model: Path, probes: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # The path of a socket must be short. `tmp_path` is long: it has the name of the test.
    directory = tmp_path_factory.mktemp("d")

    def status(name: str, command: list[str]) -> int:
        with serving_alone(in_directory(directory / name, command), directory / f"{name}.log") as server:
            # The client hangs up at the end of the block. vLLM kills its engine, so the stream might never end.
            with streaming(server):
                server.process.send_signal(number)
            return ended(server)

    with ThreadPoolExecutor() as pool:
        status_of_vllm = pool.submit(status, "plain", plain_vllm(model, *OPTIONS))
        status_of_ours = pool.submit(status, "ours", ours(model, probes))
    assert status_of_ours.result() == status_of_vllm.result()
    assert not sockets(directory / "ours")
