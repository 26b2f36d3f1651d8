"""The ways in which a server ends. Each checks the server's answers and what is left of the server.

- `finishes_answers`: a server that drains finishes its answers and takes no new requests.
- `cuts_answers`: a server whose drain is too short for its answers cuts them in order.
- `dies_with`: when one process dies, the whole server ends with a failure.

Every function takes a running server, and returns when no process of the server is left.
"""

import contextlib
import os
import re
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import psutil

from tests.support.answers import ReceivedChoice
from tests.support.processes import END_TIMEOUT, ended, process
from tests.support.serving import MODEL_NAME, Server

ENGINE = "VLLM::EngineCore"
# Ten seconds of `SlowWorker` or more. At full speed, the engine can keep the other processes of this machine from
# running for seconds. The answer of such a small model would end in that time.
TOKENS, CHOICES = 500, 4
ANSWER_TIMEOUT = 300.0
# The time that the engine may take to end after the answers.
AFTERWARDS = 30.0
# So many tokens that the answer is far from its end when a client on a busy machine has read its first events.
_STREAM_TOKENS, _STREAM_CHOICES = 900, 16
_READ = 10


def terminate(server: Server) -> None:
    """Send SIGTERM to a server."""
    server.process.send_signal(signal.SIGTERM)


def interrupt(server: Server) -> None:
    """Interrupt a server's first process."""
    server.process.send_signal(signal.SIGINT)


def press_ctrl_c(server: Server) -> None:
    """Interrupt all processes of a server's group, as Ctrl-C in a terminal does."""
    os.killpg(server.process.pid, signal.SIGINT)


def finishes_answers(server: Server, end: Callable[[Server], None]) -> None:
    """End a server that drains for `ANSWER_TIMEOUT`. Assert that it finishes running answers and takes no others."""
    with answering(server) as answers:
        end(server)
        refused = until_refused(server)
        assert refused.status_code == refused.json()["error"]["code"] == 503
        assert refused.headers["retry-after"]
        process(server, ENGINE).resume()
        for answer in answers:
            assert scored(answer.result()) == [("length", TOKENS)] * CHOICES
    assert ended(server, ANSWER_TIMEOUT) == 0
    waited_for = re.findall(r"Ending: (\d+) requests", server.log.read_text(errors="replace"))
    assert sum(map(int, waited_for)) == 2


def cuts_answers(server: Server, *, again: bool) -> None:
    """Interrupt a server whose answers take longer than its drain. Assert that it cuts them and ends in order.

    Args:
        server: the server.
        again: whether to interrupt the server a second time instead of waiting for the end of the drain.
    """
    with answering(server) as answers:
        interrupt(server)
        until_refused(server)
        if again:
            interrupt(server)
        process(server, ENGINE).resume()
        for answer in answers:
            ends = scored(answer.result())
            assert {reason for reason, _ in ends} <= {"length", "abort"}
            assert any(reason == "abort" and 0 < length < TOKENS for reason, length in ends)
    began = time.monotonic()
    assert ended(server) == 0
    assert time.monotonic() - began < AFTERWARDS


def dies_with(server: Server, title: str) -> None:
    """Kill the process with a title while an answer streams. Assert that the client sees the end of the stream."""
    victim = process(server, title)
    with streaming(server) as events, contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError):
        victim.kill()
        assert len(list(events)) < _STREAM_TOKENS * _STREAM_CHOICES - _READ
    assert ended(server) > 0


@contextlib.contextmanager
def streaming(server: Server) -> Iterator[Iterator[str]]:
    """Enter the block in the middle of a long stream; yield the rest of its events."""
    body = {
        "model": MODEL_NAME,
        "prompt": "A",
        "max_tokens": _STREAM_TOKENS,
        "ignore_eos": True,
        "n": _STREAM_CHOICES,
        "stream": True,
    }
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=ANSWER_TIMEOUT) as response:
        events = (line for line in response.iter_lines() if line.startswith("data: "))
        for _ in range(_READ):
            next(events)
        yield events


@contextlib.contextmanager
def answering(server: Server) -> Iterator[list[Future[list[dict[str, Any]]]]]:
    """Send one request whole and one as a stream; yield the futures of their choices once both are running.

    The engine stands still inside the block, so that no answer ends before the test ends the server. `resume` lets the
    engine go on.
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
        received = defaultdict[int, ReceivedChoice](ReceivedChoice)
        last: dict[int, dict[str, Any]] = {}
        # Use the SDK: httpx also splits lines at Unicode's line separators, and this model's bytes contain some.
        stream: Any = server.client().completions.create(**body, extra_body=extra, stream=True)
        for event in stream:
            for choice in (choice.model_dump(exclude_unset=True) for choice in event.choices):
                received[choice["index"]].take(choice)
                last[choice["index"]] = choice
            begun.set()
        return [{**choice, "traits": received[index].traits} for index, choice in last.items()]

    engine = process(server, ENGINE)
    with ThreadPoolExecutor() as pool:
        engine.suspend()
        before = server.metric("traitwatch_ledger_requests")
        answers = []
        for ask in (whole, streamed):
            answers.append(pool.submit(ask))
            until_open(server, before + len(answers))
        engine.resume()
        assert begun.wait(ANSWER_TIMEOUT)
        engine.suspend()
        try:
            yield answers
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                engine.resume()


def until_open(server: Server, requests: float) -> None:
    """Wait until a server has handed a number of requests to its engine."""
    deadline = time.monotonic() + ANSWER_TIMEOUT
    while server.metric("traitwatch_ledger_requests") < requests:
        assert time.monotonic() < deadline, "the request has not come"


def scored(choices: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Assert that all tokens of an answer have scores. Return the finish reason and the length of each choice."""
    ends = []
    for choice in choices:
        assert choice["traits_complete"] is True
        (length,) = {len(scores["tokens"]) for scores in choice["traits"].values()}
        ends.append((choice["finish_reason"], length))
    return ends


def until_refused(server: Server) -> httpx.Response:
    """Wait until a server refuses requests because it is ending. Return the answer to such a request."""
    deadline = time.monotonic() + END_TIMEOUT
    # Each request opens a connection. The system hands each connection to one of the API processes.
    in_a_row = 0
    while in_a_row < 10:
        assert time.monotonic() < deadline, "the server still takes requests"
        refused = httpx.get(f"{server.url}/health", timeout=END_TIMEOUT).status_code == 503
        in_a_row = in_a_row + 1 if refused else 0
    return httpx.post(f"{server.url}/v1/completions", json={"model": MODEL_NAME, "prompt": "A"}, timeout=END_TIMEOUT)
