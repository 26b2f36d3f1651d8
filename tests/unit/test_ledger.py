"""Rows reach the response they belong to, and nothing stays behind."""

import asyncio

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from builder.artifacts import Float32Array
from server.ledger import Ledger, choice_index
from server.metrics import Metrics
from server.transport import Frame, Span

ONE_LAYER = {20: 2}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    return Metrics(registry)


def frame(*parts: tuple[Span, Float32Array], layers: tuple[int, ...] = (20,)) -> Frame:
    return Frame(list(layers), [span for span, _ in parts], np.concatenate([rows for _, rows in parts]).tobytes())


def rows(*values: float, columns: int = 2) -> Float32Array:
    return np.repeat(np.array(values, dtype=np.float32)[:, None], columns, axis=1)


def test_rows_are_found_by_place(metrics: Metrics) -> None:
    ledger = Ledger(ONE_LAYER, metrics)
    request = ledger.open("a:1")
    ledger.deliver(frame((Span("a:1", "chatcmpl-x-1", -1, 3), rows(0.5, 1, 2))))
    ledger.deliver(frame((Span("a:1", "chatcmpl-x-1", 2, 1), rows(3))))
    choice = request.choice(0)
    assert choice.prompt_last().tolist() == [0.5, 0.5]
    assert choice.states(3)[:, 0].tolist() == [1, 2, 3]
    assert choice.complete(3)
    assert not choice.complete(4)


def test_a_later_write_replaces_the_earlier_one(metrics: Metrics) -> None:
    ledger = Ledger(ONE_LAYER, metrics)
    request = ledger.open("a:1")
    ledger.deliver(frame((Span("a:1", "chatcmpl-x-1", -1, 4), rows(0, 1, 2, 3))))
    ledger.deliver(frame((Span("a:1", "chatcmpl-x-1", 1, 2), rows(20, 30))))
    assert request.choice(0).states(3)[:, 0].tolist() == [1, 20, 30]


def test_a_gap_ends_what_is_contiguous_until_it_is_filled(metrics: Metrics) -> None:
    ledger = Ledger(ONE_LAYER, metrics)
    choice = ledger.open("a:1").choice(0)
    ledger.deliver(frame((Span("a:1", "chatcmpl-x-1", 0, 2), rows(1, 2))))
    ledger.deliver(frame((Span("a:1", "chatcmpl-x-1", 3, 1), rows(4))))
    assert choice.contiguous() == 2
    ledger.deliver(frame((Span("a:1", "chatcmpl-x-1", 2, 1), rows(3))))
    assert choice.contiguous() == 4
    assert not choice.complete(4), "the prompt-last state has not come"


def test_nan_counts_as_missing(metrics: Metrics) -> None:
    ledger = Ledger(ONE_LAYER, metrics)
    choice = ledger.open("a:1").choice(0)
    ledger.deliver(frame((Span("a:1", "chatcmpl-x-1", -1, 3), rows(0, float("nan"), 2))))
    assert choice.contiguous() == 0
    assert np.isnan(choice.states(5)[0, 0])
    assert np.isnan(choice.states(5)[4, 0])


def test_many_rows_grow_the_store(metrics: Metrics) -> None:
    ledger = Ledger(ONE_LAYER, metrics)
    choice = ledger.open("a:1").choice(0)
    for place in range(-1, 1000):
        ledger.deliver(frame((Span("a:1", "chatcmpl-x-1", place, 1), rows(place))))
    assert choice.states(1000)[:, 1].tolist() == list(range(1000))


def test_rows_of_two_requests_in_one_frame_do_not_mix(metrics: Metrics) -> None:
    ledger = Ledger(ONE_LAYER, metrics)
    one, other = ledger.open("a:1"), ledger.open("a:2")
    ledger.deliver(
        frame(
            (Span("a:2", "chatcmpl-same-1", 0, 2), rows(10, 11)),
            (Span("a:1", "chatcmpl-same-2", 0, 1), rows(20)),
        )
    )
    assert one.choice(0).states(1)[:, 0].tolist() == [20]
    assert other.choice(0).states(2)[:, 0].tolist() == [10, 11]


def test_rows_of_several_layers_fill_their_columns(metrics: Metrics) -> None:
    """Two pipeline stages send the columns of their own layers."""
    ledger = Ledger({10: 1, 20: 2, 30: 1}, metrics)
    choice = ledger.open("a:1").choice(0)
    ledger.deliver(frame((Span("a:1", "chatcmpl-x-1", 0, 1), rows(1, columns=3)), layers=(10, 20)))
    assert choice.contiguous() == 0
    ledger.deliver(frame((Span("a:1", "chatcmpl-x-1", 0, 1), rows(2, columns=1)), layers=(30,)))
    assert choice.states(1).tolist() == [[1, 1, 1, 2]]
    assert choice.contiguous() == 1


def test_rows_for_a_closed_request_are_counted_and_dropped(metrics: Metrics, registry: CollectorRegistry) -> None:
    ledger = Ledger(ONE_LAYER, metrics)
    ledger.close(ledger.open("a:1"))
    ledger.deliver(frame((Span("a:1", "chatcmpl-x-1", 0, 2), rows(1, 2))))
    assert len(ledger) == 0
    assert registry.get_sample_value("traitwatch_rows_unclaimed_total") == 2


def test_a_full_ledger_accepts_no_more(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.ledger.MAX_OPEN_REQUESTS", 1)
    ledger = Ledger(ONE_LAYER, metrics)
    first, second = ledger.open("a:1"), ledger.open("a:2")
    assert first.accepted
    assert not second.accepted
    ledger.close(second)
    ledger.close(first)
    assert ledger.open("a:3").accepted


@pytest.mark.parametrize(
    "bad",
    [
        Frame([20], [Span("a:1", "chatcmpl-x-1", 0, 2)], b"\0" * 8),
        Frame([7], [Span("a:1", "chatcmpl-x-1", 0, 1)], b"\0" * 8),
        Frame([20], [Span("a:1", "chatcmpl-x-1", -2, 1)], b"\0" * 8),
    ],
    ids=["too little data", "a layer that is not tapped", "before the prompt-last state"],
)
def test_a_frame_that_makes_no_sense_is_refused(metrics: Metrics, bad: Frame) -> None:
    ledger = Ledger(ONE_LAYER, metrics)
    ledger.open("a:1")
    with pytest.raises(ValueError, match=r"."):
        ledger.deliver(bad)


async def test_waiting_ends_when_the_last_row_comes(metrics: Metrics) -> None:
    ledger = Ledger(ONE_LAYER, metrics)
    request = ledger.open("a:1")
    waiting = asyncio.create_task(request.wait_complete(0, 2, timeout=30))
    ledger.deliver(frame((Span("a:1", "chatcmpl-x-1", -1, 2), rows(0, 1))))
    await asyncio.sleep(0)
    assert not waiting.done()
    ledger.deliver(frame((Span("a:1", "chatcmpl-x-1", 1, 1), rows(2))))
    assert await waiting is True


async def test_waiting_gives_up_at_its_deadline(metrics: Metrics) -> None:
    request = Ledger(ONE_LAYER, metrics).open("a:1")
    assert await request.wait_complete(0, 1, timeout=0.01) is False


@pytest.mark.parametrize(
    ("req_id", "n", "index"),
    [
        ("chatcmpl-8f2a-1b2c3d4e", 1, 0),
        ("3_chatcmpl-8f2a-1b2c3d4e", 4, 3),
        ("cmpl-8f2a-2-1b2c3d4e", 1, 2),
        ("1_cmpl-8f2a-2-1b2c3d4e", 3, 7),
        ("chatcmpl-2_my-own-id-1b2c3d4e", 1, 0),
        ("cmpl-a-b_c-0-1b2c3d4e", 1, 0),
        ("traitwatch-canary-0011-1b2c3d4e", 1, 0),
    ],
)
def test_a_request_id_tells_the_choice(req_id: str, n: int, index: int) -> None:
    assert choice_index(req_id, n) == index
