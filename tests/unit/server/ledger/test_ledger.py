"""Each row reaches its own response. Nothing stays behind, and every wait has a limit."""

import asyncio
import dataclasses
import gc
import time
import tracemalloc
import weakref
from array import array
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from tests.support.frames import SentRows, answer_rows, frame
from tests.support.samples import sample
from tests.support.traits import served_trait
from traitwatch_server.ledger import ledger as ledger_module
from traitwatch_server.ledger import waiter
from traitwatch_server.ledger.call import Call
from traitwatch_server.ledger.ledger import Ledger
from traitwatch_server.metrics import Metrics
from traitwatch_server.pacing import at_once
from traitwatch_server.traits import trait_set
from traitwatch_server.wire import RowFrame, RowRun

LOADED = trait_set([served_trait()])
SIX = trait_set([served_trait(f"t{i}", column=i) for i in range(6)])
PROMPT, TOKENS = [5, 6], [7, 8, 9]


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def ledger(registry: CollectorRegistry) -> Ledger:
    return Ledger("api", Metrics(registry))


def opened(ledger: Ledger, num_choices: int = 1) -> Call:
    """Return a call whose choices have `PROMPT` and `TOKENS`."""
    call = ledger.open(LOADED, num_choices)
    for index in range(num_choices):
        call.choice(index).prompt, call.choice(index).tokens = PROMPT, array("i", TOKENS)
    return call


def test_rows_of_two_calls_in_one_frame_do_not_mix(ledger: Ledger) -> None:
    one, other = opened(ledger), opened(ledger)
    ledger.deliver(
        frame(
            SentRows(other.key, "chatcmpl-same-1", 2, [2, 3], [7, 8], [10, 11]),
            SentRows(one.key, "chatcmpl-same-2", 2, [2], [7], [20]),
        )
    )
    assert one.choice(0).states(0, 1)[:, 0].tolist() == [20]
    assert other.choice(0).states(0, 2)[:, 0].tolist() == [10, 11]


def test_each_call_has_a_key_of_its_own_that_names_the_process(ledger: Ledger) -> None:
    keys = {opened(ledger).key for _ in range(3)}
    assert len(keys) == 3
    assert all(key.startswith("api:") for key in keys)


@pytest.mark.parametrize(
    ("req_id", "num_choices", "index"),
    [
        ("chatcmpl-8f2a-1b2c3d4e", 1, 0),
        ("3_chatcmpl-8f2a-1b2c3d4e", 4, 3),
        ("11_my_own_id-1b2c", 12, 11),
        # With one choice, the client chooses the id, in any form.
        ("2_my-own-id-1b2c3d4e", 1, 0),
    ],
)
def test_the_id_of_vllms_request_names_the_choice(ledger: Ledger, req_id: str, num_choices: int, index: int) -> None:
    call = opened(ledger, num_choices)
    ledger.deliver(frame(answer_rows(call.key, PROMPT, TOKENS, req_id)))
    assert [call.choice(i).complete() for i in range(num_choices)] == [i == index for i in range(num_choices)]


def test_rows_for_a_closed_call_are_counted_and_dropped(ledger: Ledger, registry: CollectorRegistry) -> None:
    call = opened(ledger)
    ledger.close(call)
    ledger.deliver(frame(answer_rows(call.key, PROMPT, TOKENS)))
    assert len(ledger) == 0
    assert sample(registry, "rows_unclaimed_total") == 3


def test_every_row_that_comes_is_counted(ledger: Ledger, registry: CollectorRegistry) -> None:
    call = opened(ledger)
    for _ in range(2):
        ledger.deliver(frame(answer_rows(call.key, PROMPT, TOKENS)))
    assert sample(registry, "rows_received_total") == 6


def test_a_full_ledger_accepts_no_more_calls(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "MAX_OPEN_CALLS", 1)
    first, second = opened(ledger), opened(ledger)
    assert first.accepted
    assert not second.accepted
    ledger.close(second)
    ledger.close(first)
    assert opened(ledger).accepted


def test_rows_are_bounded_in_bytes(
    ledger: Ledger, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = opened(ledger), opened(ledger)
    # The 64 rows of one call fit, each of a float and two token ids, but not those of two.
    monkeypatch.setattr(ledger_module, "MAX_BYTES", first.nbytes + second.nbytes + 64 * 12)
    ledger.deliver(frame(answer_rows(first.key, PROMPT, TOKENS), answer_rows(second.key, PROMPT, TOKENS)))
    assert first.choice(0).complete()
    assert not second.choice(0).complete()
    assert sample(registry, "rows_dropped_total", reason="ledger_full") == 3
    ledger.close(first)
    third = opened(ledger)
    ledger.deliver(frame(answer_rows(third.key, PROMPT, TOKENS)))
    assert third.choice(0).complete(), "the bytes of a closed call must be free again"


def test_a_malformed_frame_is_refused(ledger: Ledger) -> None:
    run = RowRun(opened(ledger).key, "chatcmpl-x-1", 2, 2)
    with pytest.raises(ValueError, match="reshape"):
        ledger.deliver(RowFrame([2], [1], [run], 0, 0, 0.0, b"\0" * 12))


@pytest.mark.parametrize(
    "bad", [{"req_id": "7_x"}, {"prompt_len": 9}], ids=["a choice that is none", "before the prompt-last state"]
)
def test_rows_that_cannot_be_cost_no_other_request_its_own(
    ledger: Ledger, registry: CollectorRegistry, bad: dict[str, Any]
) -> None:
    spoilt, other = opened(ledger, num_choices=2), opened(ledger)
    run = SentRows(spoilt.key, "0_x", 2, [2], [7], [0])
    ledger.deliver(frame(dataclasses.replace(run, **bad), answer_rows(other.key, PROMPT, TOKENS)))
    assert other.complete()
    assert not spoilt.complete()
    assert sample(registry, "rows_dropped_total", reason="misplaced") == 1


def test_rows_of_a_layer_that_is_not_tapped_are_dropped(ledger: Ledger, registry: CollectorRegistry) -> None:
    call = opened(ledger)
    ledger.deliver(frame(answer_rows(call.key, PROMPT, TOKENS), layers=[7]))
    assert not call.complete()
    assert sample(registry, "rows_dropped_total", reason="misplaced") == 3


async def test_a_process_that_stood_still_reads_the_arrived_rows_before_it_gives_up(ledger: Ledger) -> None:
    call = opened(ledger)
    loop = asyncio.get_running_loop()
    loop.call_later(0.01, time.sleep, 1.0)
    loop.call_later(1.1, ledger.deliver, frame(answer_rows(call.key, PROMPT, TOKENS)))
    assert await call.wait_complete(0, 0.5)
    assert not await opened(ledger).wait_complete(0, 0.05)


def test_the_last_user_of_a_call_closes_it(ledger: Ledger) -> None:
    call = ledger.open(LOADED, holders=2)
    ledger.release(call)
    assert len(ledger) == 1
    ledger.release(call)
    assert len(ledger) == 0


def test_a_released_call_is_freed_at_once(ledger: Ledger) -> None:
    """Its rows may be many, and the columns of its traits are free for others only then."""
    call = opened(ledger)
    ledger.deliver(frame(answer_rows(call.key, PROMPT, TOKENS)))
    assert at_once(call.scores(0)).missing == 0
    ledger.release(call)
    alive = weakref.ref(call)
    gc.disable()
    try:
        del call
        assert alive() is None
    finally:
        gc.enable()


def test_a_call_knows_its_engine_and_the_lag_of_its_rows_is_observed(
    ledger: Ledger, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("traitwatch_server.ledger.ledger.time.time", lambda: 100.25)
    call = opened(ledger)
    assert call.engine is None
    ledger.deliver(frame(answer_rows(call.key, PROMPT, TOKENS), engine=0, time=100.0))
    assert call.engine == 0
    assert sample(registry, "transport_lag_seconds_sum") == 0.25
    assert sample(registry, "transport_lag_seconds_bucket", le="0.2") == 0
    assert sample(registry, "transport_lag_seconds_bucket", le="0.5") == 1


def test_the_calls_and_bytes_of_the_ledger_are_metrics(ledger: Ledger, registry: CollectorRegistry) -> None:
    call = opened(ledger)
    ledger.deliver(frame(answer_rows(call.key, PROMPT, TOKENS)))
    other = opened(ledger)
    assert sample(registry, "ledger_requests") == 2
    assert sample(registry, "ledger_bytes") == call.nbytes + other.nbytes
    assert call.nbytes > other.nbytes > 0
    ledger.close(call)
    ledger.close(other)
    assert sample(registry, "ledger_requests") == sample(registry, "ledger_bytes") == 0


def test_the_scores_of_a_choice_are_of_its_tokens_so_far(ledger: Ledger) -> None:
    call = opened(ledger)
    ledger.deliver(frame(answer_rows(call.key, PROMPT, TOKENS)))
    scores = at_once(call.scores(0))
    assert (scores.mean.tolist(), scores.max_z.tolist(), scores.missing) == ([0.5], [0.0], 0)
    assert scores.prompt_last.tolist() == [-1.0]
    assert at_once(call.scores(0)) is scores, "the response and the metrics must share the scores"
    call.choice(0).tokens = array("i", TOKENS[:2])
    assert at_once(call.scores(0)).mean.tolist() == [0.0]


async def test_waiting_ends_when_the_last_row_comes(ledger: Ledger) -> None:
    call = opened(ledger)
    waiting = asyncio.create_task(call.wait_complete(0, timeout=30))
    ledger.deliver(frame(SentRows(call.key, "x", 2, [1, 2], [6, 7], [0, 1])))
    await asyncio.sleep(0)
    assert not waiting.done()
    ledger.deliver(frame(SentRows(call.key, "x", 2, [3], [8], [2])))
    assert await waiting is True


async def test_where_no_frame_comes_at_all_only_the_first_answer_waits_in_full(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiter, "SILENT_TIMEOUT", 0.0)
    assert await opened(ledger).wait_complete(0, timeout=0.05) is False
    # With the full timeout, this wait would not end within the timeout of the test.
    assert await asyncio.wait_for(opened(ledger).wait_complete(0, timeout=3600), 60) is False
    back = opened(ledger)
    ledger.deliver(frame(SentRows(back.key, "x", 2, [1], [6], [0])))
    waiting = asyncio.create_task(back.wait_complete(0, timeout=3600))
    await asyncio.sleep(0.01)
    assert not waiting.done(), "frames come again, so the call must wait for its rows"
    ledger.deliver(frame(SentRows(back.key, "x", 2, [2, 3], [7, 8], [1, 2])))
    assert await waiting is True


async def test_one_lost_row_does_not_make_the_ledger_silent(ledger: Ledger) -> None:
    lost, other = opened(ledger), opened(ledger)
    waiting = asyncio.create_task(lost.wait_complete(0, timeout=0.05))
    await asyncio.sleep(0)
    ledger.deliver(frame(answer_rows(other.key, PROMPT, TOKENS)))
    assert await waiting is False
    assert not ledger.frames.silent


def _long_call(ledger: Ledger, prompt: int, tokens: int, *, with_prompt: bool) -> Call:
    call = ledger.open(SIX, with_prompt=with_prompt)
    call.choice(0).prompt = range(1000, 1000 + prompt)
    call.choice(0).tokens.extend(range(1000 + prompt, 1000 + prompt + tokens))
    first = 0 if with_prompt else prompt - 1
    for start in range(first, prompt + tokens - 1, 512):
        at = np.arange(start, min(start + 512, prompt + tokens - 1))
        rows = np.column_stack([at, 1000 + at, np.ones((len(at), 6))]).astype(np.float32)
        ledger.deliver(RowFrame([2], [6], [RowRun(call.key, "x", prompt, len(at))], 0, 0, 0.0, rows.tobytes()))
    assert call.complete()
    return call


@pytest.mark.parametrize(
    ("count", "prompt", "tokens", "with_prompt"),
    [(300, 5, 2, False), (300, 5, 60, False), (3, 5, 40_000, False), (2, 60_000, 10, True)],
    ids=["short answers", "answers of a block", "long answers", "long prompts"],
)
def test_the_bytes_of_the_ledger_are_those_that_it_takes(
    ledger: Ledger, count: int, prompt: int, tokens: int, with_prompt: bool
) -> None:
    """What bounds the memory must be the memory, within a fifth, as Python's allocator counts it."""
    _long_call(ledger, 5, 3, with_prompt=with_prompt)
    counted = ledger.nbytes
    gc.collect()
    tracemalloc.start()
    try:
        calls = [_long_call(ledger, prompt, tokens, with_prompt=with_prompt) for _ in range(count)]
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert ledger.nbytes - counted == pytest.approx(taken, rel=0.2)
    for call in calls:
        ledger.close(call)
    assert ledger.nbytes == counted
