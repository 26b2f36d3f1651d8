"""Rows cross a real ZeroMQ socket, each to the API process that waits for it."""

import asyncio
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
import zmq
from prometheus_client import CollectorRegistry

from server.metrics import Metrics
from server.transport import Frame, Receiver, Rows, Sender, Span, new_key

DEADLINE = 20.0


async def frames_of(receiver: Receiver, count: int) -> list[Frame]:
    """Receive `count` frames, within the deadline."""
    frames: list[Frame] = []
    done = asyncio.Event()

    def deliver(frame: Frame) -> None:
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


def values(*rows: float) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)[:, None]


async def test_rows_arrive_as_they_were_sent(registry: CollectorRegistry) -> None:
    receiver = Receiver(Metrics(registry))
    sender = Sender([20])
    sender.connect(receiver.api_process, receiver.endpoint)
    span = Span(new_key(receiver.api_process), "chatcmpl-1", -1, 2)
    sender.send(Rows([span], values(0.5, -1.25), None))
    (frame,) = await frames_of(receiver, 1)
    sender.close()
    assert frame.layers == [20]
    assert frame.spans == [span]
    assert np.frombuffer(frame.data, dtype=np.float32).tolist() == [0.5, -1.25]


async def test_each_api_process_gets_its_own_rows(registry: CollectorRegistry) -> None:
    one, other = Receiver(Metrics(registry)), Receiver(Metrics(CollectorRegistry()))
    sender = Sender([20])
    for receiver in (one, other):
        sender.connect(receiver.api_process, receiver.endpoint)
    keys = [new_key(one.api_process), new_key(other.api_process), new_key(one.api_process)]
    spans = [Span(key, f"r{i}", 0, i + 1) for i, key in enumerate(keys)]
    sender.send(Rows(spans, values(0, 10, 11, 20, 21, 22), None))
    (mine,) = await frames_of(one, 1)
    (theirs,) = await frames_of(other, 1)
    sender.close()
    assert [span.req_id for span in mine.spans] == ["r0", "r2"]
    assert np.frombuffer(mine.data, dtype=np.float32).tolist() == [0, 20, 21, 22]
    assert [span.req_id for span in theirs.spans] == ["r1"]
    assert np.frombuffer(theirs.data, dtype=np.float32).tolist() == [10, 11]


async def test_rows_for_an_unknown_process_do_not_stop_the_sender(registry: CollectorRegistry) -> None:
    receiver = Receiver(Metrics(registry))
    sender = Sender([20])
    sender.connect(receiver.api_process, receiver.endpoint)
    sender.send(Rows([Span("nobody:1", "r", 0, 1)], values(1), None))
    sender.send(Rows([Span(new_key(receiver.api_process), "r", 0, 1)], values(2), None))
    (frame,) = await frames_of(receiver, 1)
    sender.close()
    assert np.frombuffer(frame.data, dtype=np.float32).tolist() == [2]


async def test_garbage_is_counted_and_passed_over(registry: CollectorRegistry) -> None:
    receiver = Receiver(Metrics(registry))
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.connect(receiver.endpoint)
        socket.send(b"\xc1 not msgpack")
        sender = Sender([20])
        sender.connect(receiver.api_process, receiver.endpoint)
        deadline = asyncio.get_running_loop().time() + DEADLINE
        received: list[Frame] = []
        task = asyncio.create_task(receiver.run(received.append))
        while registry.get_sample_value("traitwatch_frames_unreadable_total") != 1:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)
        sender.send(Rows([Span(new_key(receiver.api_process), "r", 0, 1)], values(3), None))
        while not received:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        sender.close()


async def test_the_socket_is_private_and_goes_away(registry: CollectorRegistry) -> None:
    receiver = Receiver(Metrics(registry))
    directory = Path(receiver.endpoint.removeprefix("ipc://")).parent
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    task = asyncio.create_task(receiver.run(lambda frame: None))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not directory.exists()
