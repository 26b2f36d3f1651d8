"""Rows cross a real ZeroMQ socket. Each row reaches the API process that waits for it."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
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


async def frames_of(receiver: Receiver, count: int) -> list[RowFrame]:
    """Receive `count` frames with rows before the deadline."""
    frames: list[RowFrame] = []
    done = asyncio.Event()

    def deliver(frame: RowFrame) -> None:
        if frame.runs:
            frames.append(frame)
        if len(frames) == count:
            done.set()

    task = asyncio.create_task(receiver.run(deliver))
    try:
        await asyncio.wait_for(done.wait(), DEADLINE)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return frames


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def rows(runs: list[RowRun], *values: float) -> Rows:
    """Return rows in which each value is the projection, the position and the token id."""
    return Rows(runs, [1], torch.tensor(values, dtype=torch.float32)[:, None].repeat(1, 3), None)


def values_of(frame: RowFrame) -> list[float]:
    values: list[float] = np.frombuffer(frame.data, dtype=np.float32).reshape(-1, 3)[:, 2].tolist()
    return values


async def test_rows_arrive_as_they_were_sent(registry: CollectorRegistry, tmp_path: Path) -> None:
    receiver = Receiver(Metrics(registry), tmp_path)
    sender = Sender([20], engine=3)
    sender.connect(receiver.api_process, receiver.endpoint)
    run = RowRun(new_key(receiver.api_process), "chatcmpl-1", -1, 2)
    before = time.time()
    sender.send(rows([run], 0.5, -1.25))
    (frame,) = await frames_of(receiver, 1)
    sender.close()
    assert (frame.layers, frame.widths, frame.dropped, frame.engine) == ([20], [1], 0, 3)
    assert before <= frame.time <= time.time()
    assert frame.runs == [run]
    assert values_of(frame) == [0.5, -1.25]


async def test_each_api_process_gets_its_own_rows(registry: CollectorRegistry, tmp_path: Path) -> None:
    one, other = Receiver(Metrics(registry), tmp_path), Receiver(Metrics(CollectorRegistry()), tmp_path)
    sender = Sender([20], engine=3)
    for receiver in (one, other):
        sender.connect(receiver.api_process, receiver.endpoint)
    keys = [new_key(one.api_process), new_key(other.api_process), new_key(one.api_process)]
    runs = [RowRun(key, f"r{i}", 0, i + 1) for i, key in enumerate(keys)]
    sender.send(rows(runs, 0, 10, 11, 20, 21, 22))
    (of_one,) = await frames_of(one, 1)
    (of_other,) = await frames_of(other, 1)
    sender.close()
    assert [run.req_id for run in of_one.runs] == ["r0", "r2"]
    assert values_of(of_one) == [0, 20, 21, 22]
    assert [run.req_id for run in of_other.runs] == ["r1"]
    assert values_of(of_other) == [10, 11]


async def test_rows_for_an_unknown_process_do_not_stop_the_sender(registry: CollectorRegistry, tmp_path: Path) -> None:
    receiver = Receiver(Metrics(registry), tmp_path)
    sender = Sender([20], engine=3)
    sender.connect(receiver.api_process, receiver.endpoint)
    sender.send(rows([RowRun("nobody:1", "r", 0, 1)], 1))
    sender.send(rows([RowRun(new_key(receiver.api_process), "r", 0, 1)], 2))
    (frame,) = await frames_of(receiver, 1)
    sender.close()
    assert values_of(frame) == [2]


async def test_a_malformed_message_is_counted_and_skipped(registry: CollectorRegistry, tmp_path: Path) -> None:
    receiver = Receiver(Metrics(registry), tmp_path)
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.connect(receiver.endpoint)
        socket.send(b"\xc1 not msgpack")
        sender = Sender([20], engine=3)
        sender.connect(receiver.api_process, receiver.endpoint)
        deadline = asyncio.get_running_loop().time() + DEADLINE
        received: list[RowFrame] = []
        task = asyncio.create_task(receiver.run(received.append))
        while sample(registry, "frames_unreadable_total") != 1:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)
        sender.send(rows([RowRun(new_key(receiver.api_process), "r", 0, 1)], 3))
        while not received:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        sender.close()


async def test_the_socket_is_in_the_launchers_directory_and_goes_away(
    registry: CollectorRegistry, tmp_path: Path
) -> None:
    receiver = Receiver(Metrics(registry), tmp_path)
    (path,) = tmp_path.iterdir()
    assert receiver.endpoint == f"ipc://{path}"
    task = asyncio.create_task(receiver.run(lambda frame: None))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not path.exists()


async def test_without_a_reader_rows_are_dropped_and_counted(
    registry: CollectorRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reads. The socket takes messages up to its marks. Later frames report the number of lost rows."""
    for end in ("worker.sender", "ledger.receiver"):
        monkeypatch.setattr(f"traitwatch_server.{end}.HIGH_WATER_MARK", 2)
    receiver = Receiver(Metrics(registry), tmp_path)
    sender = Sender([20], engine=3)
    sender.connect(receiver.api_process, receiver.endpoint)
    run = RowRun(new_key(receiver.api_process), "r", 0, 1)
    for number in range(200):
        sender.send(rows([run], number))
    await wait_until(lambda: sender._taken == sender._put)
    received: list[RowFrame] = []
    task = asyncio.create_task(receiver.run(received.append))
    sent = 200
    while not received or values_of(received[-1]) != [sent]:
        sent += 1
        sender.send(rows([run], sent))
        await asyncio.sleep(0.05)
    dropped = sample(registry, "rows_dropped_total", reason="reader_behind")
    assert dropped == sent - len(received) > 0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    sender.close()


async def test_the_bytes_that_wait_for_the_senders_thread_have_a_limit(
    registry: CollectorRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("traitwatch_server.worker.sender._MAX_QUEUED_BYTES", 100)
    receiver = Receiver(Metrics(registry), tmp_path)
    sender = Sender([20], engine=3)
    sender.connect(receiver.api_process, receiver.endpoint)
    run = RowRun(new_key(receiver.api_process), "r", 0, 1)
    stuck = Event()
    sender.send(Rows([run], [1], torch.zeros(1, 3), stuck))  # type: ignore[arg-type]
    for number in range(50):
        sender.send(rows([run], number))
    assert sender._put - sender._taken <= 112
    stuck.set()
    task = asyncio.create_task(receiver.run(lambda frame: None))
    await wait_until(lambda: sender._taken == sender._put)
    sender.send(rows([run], 7))
    await wait_until(lambda: sample(registry, "rows_dropped_total", reason="reader_behind") == 42)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    sender.close()


class Event(threading.Event):
    """A device-to-host copy that does not end."""

    def synchronize(self) -> None:
        self.wait(DEADLINE)


async def wait_until(condition: Callable[[], bool]) -> None:
    deadline = asyncio.get_running_loop().time() + DEADLINE
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)
