"""The ways in which a server ends, each with what must hold of its answers and of what is left of it.

- `finishes_answers`: a server that is told to end finishes its answers and takes no others.
- `cuts_answers`: an end that is in a hurry cuts the answers, in order.
- `dies_with`: a process that dies takes the whole server down, as a failure.

Every function takes a running server and returns when no process of the server is left.
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
# Ten seconds of `SlowWorker` and more: an engine at its full speed can keep this machine's other processes from running
# for seconds, in which an answer of so small a model would end.
TOKENS, CHOICES = 500, 4
ANSWER_TIMEOUT = 300.0
# What the engine's end may take after the answers'.
AFTERWARDS = 30.0
# So many that the answer is far from its end when a client on a busy machine has read its first events.
_STREAM_TOKENS, _STREAM_CHOICES = 900, 16
_READ = 10


def terminate(server: Server) -> None:
    """Tell a server to end."""
    server.process.send_signal(signal.SIGTERM)


def interrupt(server: Server) -> None:
    """Interrupt a server's first process."""
    server.process.send_signal(signal.SIGINT)


def press_ctrl_c(server: Server) -> None:
    """Interrupt all processes of a server's group, as a terminal does."""
    os.killpg(server.process.pid, signal.SIGINT)


def finishes_answers(server: Server, end: Callable[[Server], None]) -> None:
    """Tell a server that drains for `ANSWER_TIMEOUT` to end: running answers are finished and no others taken."""
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
    """Interrupt a server whose answers take longer than it may drain: they are cut, and the server ends in order.

    Args:
        server: the server.
        again: whether the server is interrupted once more, in place of waiting until its time is up.
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
    """Kill the process with a title while an answer is streamed; its client must learn that no more comes."""
    victim = process(server, title)
    with streaming(server) as events, contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError):
        victim.kill()
        assert len(list(events)) < _STREAM_TOKENS * _STREAM_CHOICES - _READ
    assert ended(server) > 0


@contextlib.contextmanager
def streaming(server: Server) -> Iterator[Iterator[str]]:
    """Be in the middle of a long stream; yield the rest of its events."""
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
        received = defaultdict[int, ReceivedChoice](ReceivedChoice)
        last: dict[int, dict[str, Any]] = {}
        # By the SDK: httpx also ends a line at the separators of Unicode, of which this model's bytes make some.
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
