"""Runs a real server as a user does, with options for a small engine, and reads its metrics."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import openai
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from traitwatch.cpu_engine import ONE_PROCESS
from traitwatch.errors import ProcessError
from traitwatch.processes import free_port, running, tail
from traitwatch.vllm_private.server_process import SERVER_MODULE

# This time limit only ends a hang. Where ten processes share each core, a start takes ten minutes.
START_TIMEOUT = 1800.0
MODEL_NAME = "embedded"
# The key of an operator in the tests, the header that gives it, and a command's beginning that hands it to a server.
ADMIN_KEY = "the-key-of-an-operator"
OPERATOR = {"X-Traitwatch-Admin-Key": ADMIN_KEY}
WITH_ADMIN_KEY = ("env", f"TRAITWATCH_ADMIN_KEY={ADMIN_KEY}")


@dataclass(frozen=True)
class Server:
    """A server that is ready."""

    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=300)

    def async_client(self) -> openai.AsyncOpenAI:
        """Return a client for `async with`.

        A client that is not closed may close its sockets while a later client already has their numbers. The event loop
        then forgets the sockets of the later client, whose answers never come.
        """
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=300)

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of a metric that have these labels."""
        values = [
            sample.value for sample in self.samples() if sample.name == name and labels.items() <= sample.labels.items()
        ]
        if not values:
            raise KeyError(name, labels)
        return sum(values)

    def samples(self) -> list[Sample]:
        """Return all samples of `/metrics`, as they are now."""
        text = httpx.get(f"{self.url}/metrics", headers={"cache-control": "no-cache"}, timeout=60).text
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def environment() -> dict[str, str]:
    """Return the environment of a server that shares two cores with other servers and with the tests."""
    return {**_unbound(max(1, (os.cpu_count() or 1) // 2)), **ONE_PROCESS, **measured_environment()}


def measured_environment() -> dict[str, str]:
    """Return the environment of a server whose speed is measured: threads and processes are vLLM's own choice."""
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    # An engine in the tests' own process leaves its log level in the environment.
    return {**os.environ, **quiet, "VLLM_LOGGING_LEVEL": "INFO"}


def _unbound(threads: int) -> dict[str, str]:
    """Return variables for a server with `threads` threads that the system may move between the cores.

    By default on two cores, vLLM has one thread and binds it to the first core. All servers would wait for this core.
    With one thread for each core, the threads wait for each other at every layer, which is slow on a busy machine.
    """
    return {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",
    }


@contextmanager
def serving(
    command: Sequence[str],
    log: Path,
    waiting: Callable[[float], None] = lambda seconds: None,
    *,
    variables: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Run `command` with a port and options for a small engine. Yield the server when it is ready; then end it.

    Args:
        command: the command of a server.
        log: the file for the server's output.
        waiting: called again and again with the seconds since the start, until the server is ready. It may raise to end
            the start.
        variables: the server's environment variables. Without them, they are those of `environment`.
    """
    port = free_port()
    small = ["--max-model-len", "1024", "--served-model-name", MODEL_NAME, "--host", "127.0.0.1", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    server = running(
        "the server",
        [*command, *small],
        log,
        ready=f"{url}/health",
        timeout=START_TIMEOUT,
        environment=environment() if variables is None else variables,
        waiting=waiting,
        excerpt=partial(tail, lines=40),
    )
    try:
        with server as process:
            yield Server(url, log, process)
    except ProcessError as error:
        raise AssertionError(str(error)) from None


@contextmanager
def serving_at_once(*servers: tuple[Sequence[str], Path]) -> Iterator[list[Server]]:
    """Do the same as `serving` for several commands and logs. The servers start and end together, to save time."""
    contexts = [serving(command, log) for command, log in servers]
    with ThreadPoolExecutor(len(contexts)) as pool:
        entered = [pool.submit(context.__enter__) for context in contexts]
        try:
            yield [future.result() for future in entered]
        finally:
            up = [context for context, future in zip(contexts, entered, strict=True) if future.exception() is None]
            for end in [pool.submit(context.__exit__, None, None, None) for context in up]:
                end.result()


def traitwatch(*arguments: str | Path) -> list[str]:
    """Return the command line of our command, as installed beside this Python."""
    return [str(Path(sys.executable).with_name("traitwatch")), *map(str, arguments)]


def plain_vllm(model: Path, *arguments: str) -> list[str]:
    """Return the command line of vLLM's own server, without Traitwatch."""
    return [sys.executable, "-P", "-m", SERVER_MODULE, "--model", str(model), *arguments]
