"""A server that is told to end finishes its answers, scores and all, and takes no more; what takes too long is cut."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.answers import Told
from tests.support.processes import END_TIMEOUT, ended, in_directory, process, processes, serving_alone
from tests.support.random_llama import LAYER_OPTIONS
from tests.support.serving import MODEL_NAME, START_TIMEOUT, Server, environment, traitwatch
from traitwatch.processes import free_port

pytestmark = pytest.mark.engine


OPTIONS = ["--dtype", "float32", "--enforce-eager"]
ENGINE = "VLLM::EngineCore"
# Ten seconds of `SlowWorker` and more: an engine at its full speed can keep this machine's other processes from running
# for seconds, in which an answer of so small a model would end.
TOKENS, CHOICES = 500, 4
ANSWER_TIMEOUT = 150.0
# What the engine's end may take after the answers'.
AFTERWARDS = 30.0


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a short name, as a socket's path must be; `tmp_path` has the test's."""
    return tmp_path_factory.mktemp("d")


def left_over(directory: Path) -> list[Path]:
    """Return what stays in a directory of temporary files, but for what is not ours to end.

    torch keeps its cache on purpose. Where an engine takes more than ten seconds to end, vLLM kills it, plain vLLM too,
    and the file by which its processes found one another stays.
    """
    return [path for path in directory.iterdir() if not path.name.startswith(("torchinductor_", "vllm_dist_"))]


@contextlib.contextmanager
def serving(model: Path, probes: Path, directory: Path, *options: str) -> Iterator[Server]:
    """Serve; at the end, see that nothing of it is left."""
    slow = [sys.executable, "-m", "tests.support.slow", "serve", str(model), "--traits", str(probes)]
    command = [*slow, *LAYER_OPTIONS, *OPTIONS, *options]
    # Two workers bind to a core each; one has both.
    cores = {"VLLM_CPU_OMP_THREADS_BIND": "0|1"} if "--tensor-parallel-size" in options else {}
    with serving_alone(in_directory(directory / "t", command, **cores), directory / "server.log") as server:
        yield server
        assert ended(server) == 0
    assert not left_over(directory / "t")
    assert "Scoring probe1" in server.log.read_text()


@contextlib.contextmanager
def answering(server: Server) -> Iterator[list[Future[list[dict[str, Any]]]]]:
    """Have a server answer one request whole and one as a stream; yield their choices once both are under way.

    The engine stands still then, so that no answer ends before the server was told to; `resume` lets it go on.
    """
    body = {"model": MODEL_NAME, "prompt": "A", "max_tokens": TOKENS, "n": CHOICES}
    extra = {"ignore_eos": True}
    begun = threading.Event()

    def whole() -> list[dict[str, Any]]:
        answer = httpx.post(f"{server.url}/v1/completions", json=body | extra, timeout=ANSWER_TIMEOUT)
        answer.raise_for_status()
        choices: list[dict[str, Any]] = answer.json()["choices"]
        return choices

    def streamed() -> list[dict[str, Any]]:
        told = defaultdict[int, Told](Told)
        last: dict[int, dict[str, Any]] = {}
        # By the SDK: httpx also ends a line at the separators of Unicode, of which this model's bytes make some.
        stream: Any = server.client().completions.create(**body, extra_body=extra, stream=True)
        for event in stream:
            for choice in (choice.model_dump(exclude_unset=True) for choice in event.choices):
                told[choice["index"]].take(choice)
                last[choice["index"]] = choice
            begun.set()
        return [{**choice, "traits": told[index].traits} for index, choice in last.items()]

    engine = process(server, ENGINE)
    with ThreadPoolExecutor() as pool:
        engine.suspend()
        answers = []
        for ask in (whole, streamed):
            answers.append(pool.submit(ask))
            until_open(server, len(answers))
        engine.resume()
        assert begun.wait(ANSWER_TIMEOUT)
        engine.suspend()
        try:
            yield answers
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                engine.resume()


def until_open(server: Server, requests: int) -> None:
    """Wait until a server has handed so many requests to its engine."""
    deadline = time.monotonic() + ANSWER_TIMEOUT
    while server.metric("traitwatch_ledger_requests") < requests:
        assert time.monotonic() < deadline, "the request has not come"


def scored(choices: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Check that all the tokens of an answer have their scores; return why each choice ended, and its length."""
    ends = []
    for choice in choices:
        assert choice["traits_complete"] is True
        (length,) = {len(scores["tokens"]) for scores in choice["traits"].values()}
        ends.append((choice["finish_reason"], length))
    return ends


def terminate(server: Server) -> None:
    server.process.send_signal(signal.SIGTERM)


def press_ctrl_c(server: Server) -> None:
    """Interrupt all processes of its group, as a terminal does."""
    os.killpg(server.process.pid, signal.SIGINT)


@pytest.mark.parametrize(
    ("end", "options"),
    [
        (terminate, []),
        (terminate, ["--api-server-count", "2"]),
        (press_ctrl_c, []),
        (press_ctrl_c, ["--tensor-parallel-size", "2"]),
    ],
    ids=["", "two API processes", "Ctrl-C", "Ctrl-C with two workers"],
)
def test_running_answers_are_finished_and_no_others_taken(
    end: Callable[[Server], None], options: list[str], model: Path, probes: Path, directory: Path
) -> None:
    with serving(model, probes, directory, "--drain-seconds", str(ANSWER_TIMEOUT), *options) as server:
        with answering(server) as answers:
            end(server)
            refused = until_refused(server)
            assert refused.status_code == refused.json()["error"]["code"] == 503
            assert refused.headers["retry-after"]
            process(server, ENGINE).resume()
            for answer in answers:
                assert scored(answer.result()) == [("length", TOKENS)] * CHOICES
        ended(server, ANSWER_TIMEOUT)
        waited_for = re.findall(r"Ending: (\d+) requests", server.log.read_text(errors="replace"))
        assert sum(map(int, waited_for)) == 2


@pytest.mark.parametrize("hurry", ["time is up", "a second interrupt"])
def test_what_takes_longer_is_cut_and_ends_in_order(hurry: str, model: Path, probes: Path, directory: Path) -> None:
    seconds = "0.5" if hurry == "time is up" else "600"
    with serving(model, probes, directory, "--drain-seconds", seconds) as server:
        with answering(server) as answers:
            server.process.send_signal(signal.SIGINT)
            until_refused(server)
            if hurry == "a second interrupt":
                server.process.send_signal(signal.SIGINT)
            process(server, ENGINE).resume()
            for answer in answers:
                ends = scored(answer.result())
                assert {reason for reason, _ in ends} <= {"length", "abort"}
                assert any(reason == "abort" and 0 < length < TOKENS for reason, length in ends)
        began = time.monotonic()
        ended(server)
        assert time.monotonic() - began < AFTERWARDS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_told_to_end_before_it_is_up_ends(
    number: int, model: Path, probes: Path, directory: Path
) -> None:
    """vLLM's own would wait for its engine for ten minutes."""
    command = [*traitwatch("serve", model, "--traits", probes, *LAYER_OPTIONS), *OPTIONS, "--port", str(free_port())]
    command = in_directory(directory / "t", command)
    log = directory / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment(), stdout=out, stderr=out, start_new_session=True)
    server = Server("", log, process)
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while "(EngineCore pid=" not in log.read_text(errors="replace"):
            assert time.monotonic() < deadline, "no engine was started"
            time.sleep(0.1)
        process.send_signal(number)
        assert ended(server) == 0
    finally:
        for left in processes(server):
            left.kill()
    assert not left_over(directory / "t")
    assert "Interrupted while the server came up" in log.read_text(errors="replace")


def until_refused(server: Server) -> httpx.Response:
    """Wait until a server says that it is ending; return what it then answers to a request."""
    deadline = time.monotonic() + END_TIMEOUT
    # Each is a connection of its own, which the system hands to one of the API processes.
    in_a_row = 0
    while in_a_row < 10:
        assert time.monotonic() < deadline, "the server goes on taking requests"
        refused = httpx.get(f"{server.url}/health", timeout=END_TIMEOUT).status_code == 503
        in_a_row = in_a_row + 1 if refused else 0
    return httpx.post(f"{server.url}/v1/completions", json={"model": MODEL_NAME, "prompt": "A"}, timeout=END_TIMEOUT)
