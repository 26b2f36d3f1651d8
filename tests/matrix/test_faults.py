"""No fault of ours fails or delays a generation. Lost scores are reported, and later scores are complete again."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.faults import VARIABLE
from tests.support.random_llama import LAYER_OPTIONS, Oracle
from tests.support.serving import MODEL_NAME, Server, serving

pytestmark = pytest.mark.engine

TOKENS = 48
# Seconds that an answer may take beyond an answer without a fault. It may wait about a second for lost rows.
SLACK_SECONDS = 5.0


class Fault:
    """The file with the command for the worker; see `tests.support.faults`."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def set(self, command: str) -> None:
        self._file.write_text(command)

    def clear(self) -> None:
        self._file.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def faulty(model: Path, probes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Fault]]:
    directory = tmp_path_factory.mktemp("faults")
    os.environ[VARIABLE] = str(directory / "fault")
    command = [sys.executable, "-m", "tests.support.faults", "serve", str(model), "--traits", str(probes)]
    options = [*LAYER_OPTIONS, "--dtype", "float32", "--enforce-eager"]
    with serving([*command, *options], directory / "server.log") as server:
        yield server, Fault(directory / "fault")
    del os.environ[VARIABLE]


@pytest.fixture
def server(faulty: tuple[Server, Fault]) -> Server:
    return faulty[0]


@pytest.fixture
def fault(faulty: tuple[Server, Fault]) -> Iterator[Fault]:
    yield faulty[1]
    faulty[1].clear()


def ask(number: int = 0, **options: Any) -> dict[str, Any]:
    return {
        "model": MODEL_NAME,
        "messages": [{"role": "user", "content": f"Fault {number}."}],
        "max_tokens": TOKENS,
        "temperature": 1.0,
        "extra_body": {"ignore_eos": True, "return_token_ids": True},
        **options,
    }


def incomplete(server: Server, reason: str) -> float:
    return server.metric("traitwatch_responses_incomplete_total", reason=reason)


async def answer(server: Server, number: int = 0) -> Any:
    async with server.async_client() as client:
        return await client.chat.completions.create(**ask(number))


async def assert_scored_again(server: Server, oracle: Oracle) -> None:
    """Assert that the scores of the next request are complete and right."""
    response = await answer(server, 99)
    choice = response.choices[0]
    assert choice.traits_complete is True
    oracle.check(choice.traits, response.prompt_token_ids, choice.token_ids)


def assert_whole(response: Any) -> None:
    """Assert that the answer has the requested length, with or without scores."""
    assert len(response.choices[0].token_ids) == TOKENS
    assert response.choices[0].finish_reason == "length"
    assert len(response.choices[0].traits["probe1"]["tokens"]) == TOKENS


async def test_a_stalled_transport_costs_the_scores_and_not_the_answers(
    server: Server, fault: Fault, oracle: Oracle
) -> None:
    await answer(server)
    started = time.monotonic()
    await asyncio.gather(*(answer(server, n) for n in range(4)))
    usual = time.monotonic() - started
    before = incomplete(server, "rows_missing")
    fault.set("stall")
    took: list[float] = []
    for _ in range(3):
        # The machine may stand still now and then. The cost of a fault would come every time.
        for _ in range(4):
            started = time.monotonic()
            responses = await asyncio.gather(*(answer(server, 10 * len(took) + n) for n in range(4)))
            took.append(time.monotonic() - started)
            for response in responses:
                assert_whole(response)
                assert response.choices[0].traits_complete is False
            if took[-1] < usual + SLACK_SECONDS:
                break
        assert took[-1] < usual + SLACK_SECONDS, took
    assert incomplete(server, "rows_missing") == before + 4 * len(took)
    fault.clear()
    await settled(server, late=True)
    await assert_scored_again(server, oracle)


async def test_a_lost_row_is_the_only_one_that_is_missing(server: Server, fault: Fault, oracle: Oracle) -> None:
    before = incomplete(server, "rows_missing")
    fault.set("lose")
    response = await answer(server)
    assert_whole(response)
    choice = response.choices[0]
    assert choice.traits_complete is False
    assert incomplete(server, "rows_missing") == before + 1
    expected = oracle.projections([*response.prompt_token_ids, *choice.token_ids])
    for name, values in expected.items():
        tokens = choice.traits[name]["tokens"]
        assert [i for i, value in enumerate(tokens[:-1]) if value is None] == [tokens.index(None)], "one row was lost"
        wanted = values[len(response.prompt_token_ids) :]
        worst = max(abs(t - w) for t, w in zip(tokens, wanted, strict=True) if t is not None)
        assert worst < 2e-3 * values.std()
    await assert_scored_again(server, oracle)


async def test_a_lost_row_in_a_stream_comes_out_as_null_at_its_end(server: Server, fault: Fault) -> None:
    fault.set("lose")
    tokens: list[float | None] = []
    last: Any = None
    async with server.async_client() as client:
        async for event in await client.chat.completions.create(**ask(stream=True)):
            for choice in event.choices:
                part = getattr(choice, "traits", None)
                if part:
                    assert part["probe1"]["start"] == len(tokens)
                    tokens += part["probe1"]["tokens"]
                    last = choice
    assert len(tokens) == TOKENS
    assert tokens.count(None) == 2
    assert last.traits_complete is False


async def test_rows_that_cannot_be_read_do_not_end_the_engine(server: Server, fault: Fault, oracle: Oracle) -> None:
    fault.set("break")
    response = await answer(server)
    assert_whole(response)
    assert response.choices[0].traits_complete is False
    fault.clear()
    await assert_scored_again(server, oracle)
    log = server.log.read_text(errors="replace")
    assert log.count("The projections of a pass could not be read") == 1, "a fault is logged once, not every pass"


async def test_the_rows_of_a_worker_that_starts_anew_arrive(server: Server, fault: Fault, oracle: Oracle) -> None:
    await answer(server)
    fault.set("restart")
    response = await answer(server)
    assert_whole(response)
    await assert_scored_again(server, oracle)


async def test_an_api_process_that_is_busy_loses_nothing(server: Server, oracle: Oracle) -> None:
    """The API process stands still for three seconds in mid-stream. The worker goes on, and its rows wait."""
    pending = [asyncio.create_task(answer(server, n)) for n in range(4)]
    await asyncio.sleep(0.3)
    process = psutil.Process(server.process.pid)
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    for response in await asyncio.gather(*pending):
        choice = response.choices[0]
        assert choice.traits_complete is True
        oracle.check(choice.traits, response.prompt_token_ids, choice.token_ids)


async def test_clients_that_leave_in_mid_stream_leave_nothing_behind(server: Server, oracle: Oracle) -> None:
    async def leave(number: int) -> None:
        async with server.async_client() as client:
            stream = await client.chat.completions.create(**ask(number, stream=True, max_tokens=500))
            async for _ in stream:
                number -= 1
                if number < 0:
                    break
            await stream.close()

    await asyncio.gather(*(leave(n) for n in range(12)))
    await settled(server)
    await assert_scored_again(server, oracle)


async def settled(server: Server, *, late: bool = False) -> None:
    """Wait until the ledger is empty and, with `late`, until late rows have been counted."""
    deadline = time.monotonic() + 30
    while server.metric("traitwatch_ledger_requests") != 0 or (
        late and server.metric("traitwatch_rows_unclaimed_total") == 0
    ):
        assert time.monotonic() < deadline, httpx.get(f"{server.url}/metrics", timeout=60).text
        await asyncio.sleep(0.1)
