"""Whatever the scheduler does with a request, the request gets the projections of all its own tokens.

Each way of scheduling has a server, and all servers pass the same checks. The servers are `tests.support.faults`: real
servers whose transport stands still on command. A late row must not be taken for an earlier one.

The last check ends the server. Each server ends in another way of `tests.support.endings`.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.endings import (
    ANSWER_TIMEOUT,
    ENGINE,
    cuts_answers,
    dies_with,
    finishes_answers,
    press_ctrl_c,
    terminate,
)
from tests.support.faults import VARIABLE
from tests.support.processes import in_directory, left_over, serving_alone, sockets
from tests.support.random_llama import LAYER_OPTIONS, Oracle
from tests.support.serving import Server
from tests.support.traffic import Answer, answers, emptied, give_up, leave, random_prompt, request

pytestmark = pytest.mark.engine

CLIENTS = 64
# Some clients leave: a stream after these numbers of events, another answer after these seconds.
LEAVE_AFTER_EVENTS = (0, 0, 0, 0, 1, 2, 3, 5, 8, 13)
GIVE_UP_AFTER_SECONDS = (0.01, 0.1, 0.3)
ARRIVAL_SECONDS = 2.0
# The tokens of a block: the smallest block of the attention on a CPU.
BLOCK_SIZE = 32
COMMON = (
    "--enforce-eager", "--dtype", "float32", "--block-size", str(BLOCK_SIZE), "--enable-prompt-tokens-details",
)  # fmt: skip
# A pass is shorter than many prompts, and the KV cache has room for only a few of the requests.
BUDGET = 64
TIGHT = ("--max-num-batched-tokens", str(BUDGET), "--max-num-seqs", "32", "--num-gpu-blocks-override", "40")
NGRAM = ("--speculative-config", '{"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3}')


@dataclass(frozen=True)
class Setup:
    """A way of scheduling, and a way to end.

    Attributes:
        options: vLLM's options.
        end: ends the server, and checks that it ends properly.
        drain: the seconds that the server gives its answers when it ends.
    """

    options: tuple[str, ...]
    end: partial[None]
    drain: float = ANSWER_TIMEOUT

    @property
    def tight(self) -> bool:
        return self.options[-len(TIGHT) :] == TIGHT

    @property
    def drafts(self) -> bool:
        return self.options[: len(NGRAM)] == NGRAM


SETUPS = {
    "async": Setup(("--async-scheduling",), partial(finishes_answers, end=terminate)),
    "async-tight": Setup(("--async-scheduling", *TIGHT), partial(cuts_answers, again=False), drain=0.5),
    "sync-tight": Setup(("--no-async-scheduling", *TIGHT), partial(dies_with, title=ENGINE)),
    # vLLM has no asynchronous scheduling with drafts of this kind.
    "ngram": Setup(NGRAM, partial(finishes_answers, end=press_ctrl_c)),
    "ngram-tight": Setup((*NGRAM, *TIGHT), partial(cuts_answers, again=True), drain=600),
}


@dataclass(frozen=True)
class Served:
    """A server, and its way of scheduling.

    Attributes:
        server: the server.
        setup: the setup of the server.
        fault: the file with the command that stops the transport.
        temporary: the directory of the server's temporary files.
        start: starts another server like this one.
    """

    server: Server
    setup: Setup
    fault: Path
    temporary: Path
    start: Callable[[], AbstractContextManager["Served"]]


@contextmanager
def serve(setup: Setup, model: Path, probes: Path, new_directory: Callable[[], Path]) -> Iterator[Served]:
    directory = new_directory()
    faulty = [sys.executable, "-m", "tests.support.faults", "serve", str(model), "--traits", str(probes)]
    command = [*faulty, *LAYER_OPTIONS, *COMMON, *setup.options, "--drain-seconds", str(setup.drain)]
    fault, temporary = directory / "fault", directory / "t"
    command = in_directory(temporary, command, **{VARIABLE: str(fault)})
    start = partial(serve, setup, model, probes, new_directory)
    with serving_alone(command, directory / "server.log") as server:
        yield Served(server, setup, fault, temporary, start)


@pytest.fixture(scope="module", params=SETUPS)
def served(
    request: pytest.FixtureRequest, model: Path, probes: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    # This directory has a socket, whose path must be short.
    with serve(SETUPS[request.param], model, probes, partial(tmp_path_factory.mktemp, "s")) as served:
        yield served


def ask(number: int, setup: Setup) -> dict[str, Any]:
    """Return the request of a client: streamed or not, one choice or three, any length, some with a scored prompt.

    For drafts, prompt and answer consist of three letters. Any three tokens have occurred before. One time in three the
    same token follows them again.
    """
    random = np.random.default_rng(number)
    options: dict[str, Any] = {
        "max_tokens": int(random.integers(1, 90)),
        "stream": number % 2 == 1,
        "n": 3 if number % 5 == 0 else 1,
    }
    extra: dict[str, Any] = {"ignore_eos": number % 3 != 0}
    if number % 7 == 3:
        extra["traits"] = {"prompt": True}
    length = int(random.integers(1, 250))
    if not setup.drafts:
        return request(random_prompt(number, length), **options, extra_body=extra)
    letters = random_prompt(number, 3)
    if number % 4 == 0:
        # Then drafts go beyond the end of the answer.
        extra |= {"stop_token_ids": letters[:1], "min_tokens": 8}
    extra["allowed_token_ids"] = letters
    # Every text has all three letters: with a single letter, the projections have no spread to measure errors by.
    return request([*letters, *random_prompt(number, length, letters)], **options, extra_body=extra)


async def test_64_clients_at_once_each_get_their_own(served: Served, oracle: Oracle) -> None:
    """They arrive at random. Other clients leave: in mid-stream, before the first token, or without a stream."""
    server, setup = served.server, served.setup
    arrivals = np.random.default_rng(0).uniform(0, ARRIVAL_SECONDS, 200).tolist()

    async def client(number: int) -> list[Answer]:
        await asyncio.sleep(arrivals.pop())
        return await answers(server, ask(number, setup))

    async def leaver(number: int, events: int | None, seconds: float) -> None:
        await asyncio.sleep(arrivals.pop())
        body = request(random_prompt(number, 100), max_tokens=700, extra_body={"ignore_eos": True})
        await (give_up(server, body, seconds) if events is None else leave(server, body, events))

    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(client(number)) for number in range(CLIENTS)]
        for number, events in enumerate(LEAVE_AFTER_EVENTS, CLIENTS):
            group.create_task(leaver(number, events, 0))
        for number, seconds in enumerate(GIVE_UP_AFTER_SECONDS, 2 * CLIENTS):
            group.create_task(leaver(number, None, seconds))
    for number, task in enumerate(clients):
        for answer in task.result():
            _check_in_time(answer, oracle, f"client {number}")
    await emptied(server)
    [after] = await answers(server, ask(1, setup))
    _check_in_time(after, oracle, "the next client")
    assert server.metric("traitwatch_responses_incomplete_total") == 0
    _check_that_it_happened(served, [answer for task in clients for answer in task.result()])


def _check_that_it_happened(served: Served, got: list[Answer]) -> None:
    """Assert that the engine did what the setup is for."""
    metric = served.server.metric
    if served.setup.tight:
        assert metric("vllm:num_preemptions_total") > 0
        in_chunks = [answer for answer in got if len(answer.prompt) > 2 * BUDGET]
        assert {answer.with_prompt for answer in in_chunks} == {True, False}
    if served.setup.drafts:
        drafts = metric("vllm:spec_decode_num_draft_tokens_total")
        accepted = metric("vllm:spec_decode_num_accepted_tokens_total")
        assert accepted > 100
        assert drafts - accepted > 100
        several_tokens = [answer for answer in got if 0 < answer.events < len(answer.tokens)]
        assert several_tokens, "no stream has accepted drafts"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_is_cached(served: Served, oracle: Oracle, stream: bool) -> None:
    prompt = random_prompt(1000 + stream, 3 * BLOCK_SIZE)
    longer = [*prompt, *random_prompt(2000 + stream, 100)]
    options = {"max_tokens": 24, "stream": stream, "extra_body": {"ignore_eos": True}}
    cached = []
    for text in (prompt, prompt, longer, longer):
        [answer] = await answers(served.server, request(text, **options))
        _check_in_time(answer, oracle, f"a prompt of {len(text)} tokens, {answer.cached} of them cached")
        cached.append(answer.cached)
    # Where the cache has a whole prompt, vLLM computes the last block again.
    assert cached == [0, 2 * BLOCK_SIZE, 3 * BLOCK_SIZE, 6 * BLOCK_SIZE]
    scored = request(longer, **{**options, "n": 2, "extra_body": {"ignore_eos": True, "traits": {"prompt": True}}})
    for answer in await answers(served.server, scored):
        assert answer.with_prompt
        _check_in_time(answer, oracle, "a prompt that is cached, and scored")


async def test_rows_that_come_late_are_not_mistaken(served: Served, oracle: Oracle) -> None:
    """The transport is some passes behind. Until the rows come, the client keeps its earlier values."""
    served.fault.write_text("lag")
    got = await asyncio.gather(
        *(answers(served.server, {**ask(number, served.setup), "max_tokens": 120}) for number in range(100, 124))
    )
    served.fault.unlink()
    late = complete = 0
    for number, choices in enumerate(got, 100):
        for answer in choices:
            late += answer.late
            # A machine that stands still may lose rows too. Such an answer reports the loss, and is not checked.
            if answer.complete:
                _check(answer, oracle, f"client {number}")
                complete += 1
    assert late
    assert complete
    await emptied(served.server)


def test_the_server_ends_in_order(served: Served) -> None:
    """In a second run of this test, the server has already ended. Then the test starts another server."""
    with served.start() if served.server.process.poll() is not None else nullcontext(served) as running:
        running.fault.write_text("slow")
        served.setup.end(running.server)
        assert "Scoring probe1" in running.server.log.read_text()
        assert not sockets(running.temporary)
        # Where the engine was killed, the files of the engine may stay.
        assert served.setup.end.func is dies_with or not left_over(running.temporary)


def _check(answer: Answer, oracle: Oracle, who: str) -> None:
    try:
        answer.check(oracle)
    except AssertionError as error:
        error.add_note(f"of {who}")
        raise


def _check_in_time(answer: Answer, oracle: Oracle, who: str) -> None:
    """Check an answer. In a stream, each projection must come with the next event or earlier."""
    _check(answer, oracle, who)
    assert answer.late == 0, f"{who}: {answer.late} of {answer.events} events left a projection out"
