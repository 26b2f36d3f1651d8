"""The worker's end of the transport: a thread that sends one msgpack frame a forward pass over ZeroMQ PUSH.

The forward pass never waits. Where an API process reads too slowly, its rows are dropped, and the next frame that it
gets has their number.
"""

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import torch
import zmq

from traitwatch_server.wire import HIGH_WATER_MARK, RowFrame, RowRun, api_process_of

logger = logging.getLogger(__name__)

# Bytes that may wait for the sender's thread.
_MAX_QUEUED_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Rows:
    """The rows of one pass on their way out of the worker; their copy to host memory may still be under way.

    Attributes:
        runs: the requests of the rows, in the order of the rows.
        widths: columns of each tapped layer.
        values: `[num_rows, ROW_HEAD + sum(widths)]`, float32, host memory, as in a frame.
        ready: recorded after the copy from device to host; None where nothing was copied.
        time: when the pass ended, seconds since 1970.
    """

    runs: Sequence[RowRun]
    widths: Sequence[int]
    values: torch.Tensor
    ready: torch.cuda.Event | None
    time: float = field(default_factory=time.time)

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.values.numel() * self.values.element_size()


class Sender:
    """Sends rows from a thread of its own, so that the forward pass waits for neither the device nor the socket."""

    def __init__(self, layers: Sequence[int], engine: int):
        """Start the thread.

        Args:
            layers: the tapped layers of this worker, ascending.
            engine: index of the engine, as vLLM's metrics have it.
        """
        self._layers = list(layers)
        self._engine = engine
        self._queue: queue.SimpleQueue[Rows | tuple[str, str] | None] = queue.SimpleQueue()
        # Bytes that the worker has queued, and bytes that the thread has sent. Each number has one writer.
        self._put = 0
        self._taken = 0
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._lost: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, name="traitwatch-sender", daemon=True)
        self._thread.start()

    def connect(self, api_process: str, endpoint: str) -> None:
        """Send the rows of `api_process` to `endpoint` from now on."""
        self._queue.put((api_process, endpoint))

    def send(self, rows: Rows) -> None:
        """Queue rows and return at once. The rows are dropped where more than `_MAX_QUEUED_BYTES` wait."""
        if self._put - self._taken > _MAX_QUEUED_BYTES:
            for run in rows.runs:
                self._lost[api_process_of(run.key)] += run.count
            return
        self._put += rows.nbytes
        self._queue.put(rows)

    def close(self) -> None:
        """Send the queued rows and end the thread."""
        self._queue.put(None)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        encoder = msgspec.msgpack.Encoder()
        context = zmq.Context()
        while (item := self._queue.get()) is not None:
            if isinstance(item, tuple):
                self._sockets[item[0]] = _push_socket(context, item[1])
                continue
            try:
                if item.ready is not None:
                    item.ready.synchronize()
                for api_process, runs, values in _by_owner(item):
                    self._send(encoder, api_process, runs, item, values)
            except Exception:
                # A failure of one pass must not end the monitoring of later passes.
                logger.warning("Projections of a pass were not sent; the responses are incomplete.", exc_info=True)
            self._taken += item.nbytes
        for socket in self._sockets.values():
            socket.close()
        context.term()

    def _send(
        self,
        encoder: msgspec.msgpack.Encoder,
        api_process: str,
        runs: Sequence[RowRun],
        rows: Rows,
        values: bytes,
    ) -> None:
        """Send one frame, or count its rows as lost where its reader lags."""
        lost = self._lost[api_process]
        frame = RowFrame(self._layers, list(rows.widths), list(runs), lost, self._engine, rows.time, values)
        try:
            self._sockets[api_process].send(encoder.encode(frame), zmq.NOBLOCK)
            self._lost[api_process] -= lost
        except zmq.Again:
            self._lost[api_process] += sum(run.count for run in runs)


def _push_socket(context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str) -> "zmq.Socket[bytes]":
    socket = context.socket(zmq.PUSH)
    socket.set_hwm(HIGH_WATER_MARK)
    socket.linger = 0
    socket.connect(endpoint)
    return socket


def _by_owner(rows: Rows) -> list[tuple[str, Sequence[RowRun], bytes]]:
    """Split rows by API process. With one process, which is the usual case, nothing is copied."""
    owners = [api_process_of(run.key) for run in rows.runs]
    values = rows.values.numpy()
    if len(set(owners)) == 1:
        return [(owners[0], rows.runs, values.tobytes())]
    ends = np.cumsum([run.count for run in rows.runs])
    parts: list[tuple[str, Sequence[RowRun], bytes]] = []
    for owner in dict.fromkeys(owners):
        mine = [i for i, o in enumerate(owners) if o == owner]
        of_mine = np.concatenate([values[ends[i] - rows.runs[i].count : ends[i]] for i in mine])
        parts.append((owner, [rows.runs[i] for i in mine], of_mine.tobytes()))
    return parts
