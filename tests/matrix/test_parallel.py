"""With several ranks, stages, engines or API processes, each row is sent once and reaches its own response.

The last check ends the server, by a signal or by the death of a process.
"""

import asyncio
import contextlib
import signal
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.mmap_dict import MmapedDict

from tests.support.endings import dies_with, streaming
from tests.support.processes import ended, in_directory, serving_alone, sockets
from tests.support.random_llama import LAYER_OPTIONS, Oracle
from tests.support.serving import START_TIMEOUT, Server, traitwatch
from tests.support.traffic import Answer, answers, random_prompt, request

pytestmark = pytest.mark.engine

NUM_CONCURRENT = 12
# The limit of further requests, one after the other, until every API process has had a request.
MOST_MORE = 200
CANARY_TOKENS = 4 * (1 + 40)
# Two workers of one engine need a core each.
_TWO_CORES = {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}


@dataclass(frozen=True)
class Setup:
    """A layout of a server's processes.

    Attributes:
        options: vLLM's options.
        variables: vLLM's environment variables.
        stages: the number of pipeline stages. Each stage has some of the probed layers.
        engines: the number of data-parallel engines.
        api_processes: the number of API processes.
        end: ends the server, and checks that it ends properly.
    """

    options: list[str]
    end: Callable[[Server], None]
    variables: dict[str, str] = field(default_factory=dict)
    stages: int = 1
    engines: int = 1
    api_processes: int = 1


def ends_by_a_signal(server: Server) -> None:
    """Send SIGTERM to a server without traffic."""
    server.process.send_signal(signal.SIGTERM)
    assert ended(server) == 0


def launcher_is_killed(server: Server) -> None:
    """Kill the first process of a running server. Without Traitwatch, vLLM's other processes would stay."""
    # The API processes get a signal to end, and may finish their answers.
    with streaming(server) as events, contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError):
        psutil.Process(server.process.pid).kill()
        list(events)
    assert ended(server) == -signal.SIGKILL


SETUPS = {
    "tensor": Setup(["--tensor-parallel-size", "2"], partial(dies_with, title="VLLM::Worker_TP1"), _TWO_CORES),
    "pipeline": Setup(["--pipeline-parallel-size", "2"], ends_by_a_signal, _TWO_CORES, stages=2),
    "api": Setup(["--api-server-count", "2"], launcher_is_killed, api_processes=2),
    # vLLM starts as many API processes as engines.
    "data and api": Setup(["--data-parallel-size", "2"], ends_by_a_signal, engines=2, api_processes=2),
}


@dataclass(frozen=True)
class Counts:
    """Counters at one moment."""

    received: float
    unclaimed: float
    dropped: float
    scored: float
    incomplete: float
    # One value for each engine.
    generated: list[float]
    tokens: list[float]


@dataclass(frozen=True)
class Run:
    """A server that has answered some concurrent requests and then one more. `start` starts another server like it."""

    setup: Setup
    server: Server
    directory: Path
    at_start: Counts
    at_end: Counts
    answers: list[Answer]
    start: Callable[[], AbstractContextManager[tuple[Server, Path]]]


@contextlib.contextmanager
def serve(
    setup: Setup, model: Path, probes: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Path]]:
    """Run a server. Yield the server and the directory of its temporary files."""
    # This directory has a socket, whose path must be short.
    directory = tmp_path_factory.mktemp("p")
    command = [*traitwatch("serve", model, "--traits", probes, *LAYER_OPTIONS), *setup.options]
    temporary = directory / "t"
    command = in_directory(temporary, [*command, "--dtype", "float32", "--enforce-eager"], **setup.variables)
    with serving_alone(command, directory / "server.log") as server:
        until_all_are_up(server, setup.api_processes)
        yield server, temporary


@pytest.fixture(scope="module", params=SETUPS.values(), ids=SETUPS.keys())
def run(
    request: pytest.FixtureRequest, model: Path, probes: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Run]:
    setup: Setup = request.param
    start = partial(serve, setup, model, probes, tmp_path_factory)
    with start() as (server, temporary):
        at_start = counts(server, setup)
        given = asyncio.run(traffic(server, temporary))
        yield Run(setup, server, temporary, at_start, counts(server, setup), given, start)


async def traffic(server: Server, temporary: Path) -> list[Answer]:
    # The rows of the last request come after all others. Once they are there, no row that was sent twice is on its way.
    bodies = [
        request(random_prompt(i, 5 + 7 * i), max_tokens=12 + 3 * i, stream=i % 2 == 0, extra_body={"ignore_eos": True})
        for i in range(NUM_CONCURRENT + 1)
    ]
    concurrent = await asyncio.gather(*(answers(server, body) for body in bodies[:-1]))
    # The system hands a connection to any API process that is awake. Send requests until each API process has had one.
    more = []
    while not all(scored_by_process(temporary)) and len(more) < MOST_MORE:
        more.append(await answers(server, bodies[len(more) % NUM_CONCURRENT]))
    return [answer for choices in [*concurrent, *more, await answers(server, bodies[-1])] for answer in choices]


def until_all_are_up(server: Server, api_processes: int) -> None:
    """Wait for the API processes that are not up yet. The first process answers the health check for all."""
    deadline = time.monotonic() + START_TIMEOUT
    while server.log.read_text(errors="replace").count("Application startup complete.") < api_processes:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def counts(server: Server, setup: Setup) -> Counts:
    return Counts(
        received=server.metric("traitwatch_rows_received_total"),
        unclaimed=server.metric("traitwatch_rows_unclaimed_total"),
        dropped=server.metric("traitwatch_rows_dropped_total"),
        scored=server.metric("traitwatch_responses_scored_total"),
        incomplete=server.metric("traitwatch_responses_incomplete_total"),
        generated=[
            server.metric("vllm:generation_tokens_total", engine=str(engine)) for engine in range(setup.engines)
        ],
        tokens=[server.metric("traitwatch_tokens_scored_total", engine=str(engine)) for engine in range(setup.engines)],
    )


def scored_by_process(temporary: Path) -> list[float]:
    """Return the number of responses that each API process has scored, from the files of the shared metrics."""
    return [
        sum(
            value
            for key, value, _, _ in MmapedDict.read_all_values_from_file(file)
            if '"traitwatch_responses_scored_total"' in key
        )
        for file in temporary.glob("*/counter_*.db")
    ]


def test_every_answer_has_the_projections_of_its_own_tokens(run: Run, oracle: Oracle) -> None:
    assert len(run.answers) > NUM_CONCURRENT
    for answer in run.answers:
        answer.check(oracle)


def test_each_row_is_sent_once_by_each_stage(run: Run) -> None:
    """A response of n tokens has n rows: the prompt's last state, and those of all tokens but its last."""
    needed = sum(len(answer.tokens) for answer in run.answers)
    assert run.at_end.received - run.at_start.received == run.setup.stages * needed
    assert run.at_end.unclaimed == run.at_end.dropped == 0


def test_the_metrics_count_the_responses_of_all_api_processes(run: Run) -> None:
    assert run.at_start.scored == 0
    assert run.at_end.scored == len(run.answers)
    assert run.at_end.incomplete == 0
    assert all(run.at_end.tokens), "every token is credited to the engine that generated it"
    assert sum(run.at_end.tokens) == sum(len(answer.tokens) - 1 for answer in run.answers)


def test_every_api_process_has_checked_every_engine_before_the_server_was_up(run: Run) -> None:
    checked = CANARY_TOKENS * run.setup.api_processes
    assert run.at_start.generated == [checked] * run.setup.engines
    assert run.at_start.received == run.setup.stages * checked * run.setup.engines


def test_every_engine_and_every_api_process_has_served(run: Run) -> None:
    served = [end - start for start, end in zip(run.at_start.generated, run.at_end.generated, strict=True)]
    assert all(served)
    assert sum(served) == sum(len(answer.tokens) for answer in run.answers)
    if run.setup.api_processes > 1:
        scored = scored_by_process(run.directory)
        assert len(scored) == run.setup.api_processes
        assert all(scored)
        assert sum(scored) == run.at_end.scored


def test_only_its_user_can_reach_the_socket_of_each_api_process(run: Run) -> None:
    (ours,) = sockets(run.directory)
    assert stat.S_IMODE(ours.stat().st_mode) == 0o700
    # vLLM's own sockets are in the same directory. Their names are longer.
    assert len(list(ours.glob("?" * 12))) == run.setup.api_processes


def test_the_end_of_the_server_leaves_no_process_and_no_socket(run: Run) -> None:
    """In a second run of this test, the server has already ended. Then the test starts another server."""
    with run.start() if run.server.process.poll() is not None else nullcontext((run.server, run.directory)) as running:
        server, directory = running
        run.setup.end(server)
        # Where the launcher was killed, no process is left that can remove its sockets.
        assert run.setup.end is launcher_is_killed or not sockets(directory)
