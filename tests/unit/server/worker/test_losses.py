"""Whatever a sender loses is counted to the row, its thread survives, and it sends what is queued at its end."""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import zmq
from prometheus_client import CollectorRegistry

from tests.support.samples import sample
from traitwatch_server.ledger.receiver import Receiver
from traitwatch_server.metrics import Metrics
from traitwatch_server.wire import RowFrame, RowRun, new_key
from traitwatch_server.worker.sender import Rows, Sender

DEADLINE = 20.0
ENGINE = 0


class Broken:
    """Stands for a copy from the device that fails, as after an error of CUDA."""

    def synchronize(self) -> None:
        raise RuntimeError("an illegal memory access was encountered")


class Copying(threading.Event):
    """A copy from device to host that ends when it is set."""

    def synchronize(self) -> None:
        self.wait(DEADLINE)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def receiver(registry: CollectorRegistry, tmp_path: Path) -> Receiver:
    return Receiver(Metrics(registry), tmp_path)


@pytest.fixture
def sender(receiver: Receiver) -> Sender:
    sender = Sender([20], ENGINE)
    sender.connect(receiver.api_process, receiver.endpoint)
    return sender


def rows(receiver: Receiver, count: int = 1, ready: Any = None) -> Rows:
    run = RowRun(new_key(receiver.api_process), "r", 0, count)
    return Rows([run], [1], torch.zeros(count, 3), ready)


@asynccontextmanager
async def received(receiver: Receiver) -> AsyncIterator[list[RowFrame]]:
    frames: list[RowFrame] = []
    task = asyncio.create_task(receiver.run(frames.append))
    try:
        yield frames
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.01)


async def test_rows_whose_sending_fails_are_counted_without_a_later_pass(
    receiver: Receiver, sender: Sender, registry: CollectorRegistry
) -> None:
    async with received(receiver):
        sender.send(rows(receiver, 3, Broken()))
        sender.send(rows(receiver, 4, Broken()))
        await until(lambda: sample(registry, "rows_dropped_total", reason="worker_failed") == 7)
    assert sample(registry, "passes_failed_total") == 2
    assert sample(registry, "rows_dropped_total", reason="reader_behind") == 0
    sender.close()


async def test_a_failure_for_one_api_process_costs_the_others_nothing(
    receiver: Receiver, sender: Sender, registry: CollectorRegistry
) -> None:
    """The first owner of the rows has never connected."""
    runs = [RowRun("nobody:1", "r", 0, 1), RowRun(new_key(receiver.api_process), "r", 0, 2)]
    async with received(receiver) as frames:
        sender.send(Rows(runs, [1], torch.zeros(3, 3), None))
        await until(lambda: sample(registry, "passes_failed_total") == 1)
    assert [run.count for frame in frames for run in frame.runs] == [2]
    assert sample(registry, "rows_dropped_total", reason="worker_failed") == 0
    sender.close()


async def test_a_connection_that_fails_does_not_end_the_thread(
    receiver: Receiver, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    sender = Sender([20], ENGINE)
    with caplog.at_level(logging.ERROR):
        sender.connect("other", "no-such-transport://nowhere")
        sender.connect(receiver.api_process, receiver.endpoint)
        async with received(receiver) as frames:
            sender.send(rows(receiver))
            await until(lambda: bool(frames))
    assert "Projections were not sent" in caplog.text
    sender.close()


async def test_failures_are_logged_at_the_first_and_not_with_every_pass(
    receiver: Receiver, sender: Sender, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    async with received(receiver):
        for _ in range(50):
            sender.send(rows(receiver, 1, Broken()))
        await until(lambda: sample(registry, "passes_failed_total") == 50)
    assert len([record for record in caplog.records if record.name.startswith("traitwatch_server")]) == 1
    sender.close()


async def test_every_row_is_either_received_or_counted_under_two_threads(
    receiver: Receiver,
    sender: Sender,
    registry: CollectorRegistry,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """The worker drops rows while the thread of the sender reports earlier ones. No count may get lost between them."""
    # Python changes the thread after each few instructions.
    interval = sys.getswitchinterval()
    request.addfinalizer(lambda: sys.setswitchinterval(interval))
    sys.setswitchinterval(1e-6)
    monkeypatch.setattr("traitwatch_server.worker.sender._MAX_QUEUED_BYTES", 600)
    put = 20_000

    def work() -> None:
        for number in range(put):
            sender.send(rows(receiver, 1, Broken() if number % 5 == 0 else None))
            if number % 100 == 0:
                # A pass takes time: here the thread of the sender catches up.
                time.sleep(0.002)

    def counted(reason: str) -> float:
        return sample(registry, "rows_dropped_total", reason=reason)

    async with received(receiver) as frames:
        worker = threading.Thread(target=work)
        worker.start()
        while worker.is_alive():
            await asyncio.sleep(0.01)
        # The frame of this pass brings the last numbers.
        await until(lambda: sender._put == sender._taken)
        sender.send(rows(receiver))
        total = put + 1
        await until(
            lambda: (
                sum(run.count for frame in frames for run in frame.runs)
                + counted("reader_behind")
                + counted("worker_failed")
                == total
            )
        )
    assert counted("reader_behind") > 0
    assert counted("worker_failed") > 0
    sender.close()


async def test_the_end_of_a_sender_sends_what_is_queued(
    registry: CollectorRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader takes two frames at a time, and the system little more: most wait in the socket of the sender.

    Where the mark of the reader is full at the end of a connection, ZeroMQ drops the last frames on the reader's side.
    """
    monkeypatch.setattr("traitwatch_server.ledger.receiver.HIGH_WATER_MARK", 2)
    receiver = Receiver(Metrics(registry), tmp_path)
    sender = Sender([20], ENGINE)
    sender.connect(receiver.api_process, receiver.endpoint)
    copying = Copying()
    sender.send(rows(receiver, 1, copying))
    for _ in range(40):
        sender.send(rows(receiver, 2_000))
    async with received(receiver) as frames:
        closing = asyncio.create_task(asyncio.to_thread(sender.close))
        copying.set()
        await until(lambda: len(frames) >= 35)
    await closing


def test_the_end_of_a_sender_does_not_wait_long_for_a_reader_that_is_gone(tmp_path: Path) -> None:
    sender = Sender([20], ENGINE)
    sender.connect("gone", f"ipc://{tmp_path}/gone")
    sender.send(Rows([RowRun("gone:1", "r", 0, 1)], [1], torch.zeros(1, 3), None))
    begun = time.monotonic()
    sender.close()
    assert time.monotonic() - begun < 4
    assert not sender._thread.is_alive()


async def test_the_time_of_a_frame_is_when_its_rows_were_in_host_memory(receiver: Receiver, sender: Sender) -> None:
    """On a GPU a pass is queued before it runs: the lag of the transport must not contain the pass."""
    copying = Copying()
    sender.send(rows(receiver, 1, copying))
    await asyncio.sleep(0.3)
    copied = time.time()
    copying.set()
    async with received(receiver) as frames:
        await until(lambda: bool(frames))
    assert frames[0].time >= copied
    sender.close()


async def test_a_pass_that_could_not_be_read_is_counted(
    receiver: Receiver, sender: Sender, registry: CollectorRegistry
) -> None:
    async with received(receiver) as frames:
        sender.count_failed_pass(receiver.api_process)
        await until(lambda: sample(registry, "passes_failed_total") == 1)
    assert all(not frame.runs for frame in frames)
    sender.close()


async def test_numbers_that_could_not_be_sent_are_sent_later(
    receiver: Receiver, sender: Sender, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = zmq.Socket.send
    fails = [zmq.Again(), OSError("no buffer space")]

    def send(socket: Any, *args: Any, **kwargs: Any) -> Any:
        if fails:
            raise fails.pop(0)
        return plain(socket, *args, **kwargs)

    monkeypatch.setattr("zmq.Socket.send", send)
    async with received(receiver):
        sender.send(rows(receiver, 2))
        sender.send(rows(receiver, 3))
        sender.send(rows(receiver, 5))
        await until(lambda: sample(registry, "rows_dropped_total", reason="reader_behind") == 2)
        await until(lambda: sample(registry, "rows_dropped_total", reason="worker_failed") == 3)
    assert sample(registry, "passes_failed_total") == 1
    sender.close()
