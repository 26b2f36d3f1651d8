"""The worker's end of the transport: a thread that sends one msgpack frame a forward pass over ZeroMQ PUSH.

The forward pass never waits. Where an API process reads too slowly, its rows are dropped. Where sending fails, its rows
are lost. The next frame that the process gets has both numbers. Where no rows follow, a frame without rows brings them.
"""

import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np
import torch
import zmq

from traitwatch.failures import FailureLog
from traitwatch.vectors import Float32Array
from traitwatch_server.wire import HIGH_WATER_MARK, RowFrame, RowRun, api_process_of

logger = logging.getLogger(__name__)

# Bytes of the rows in a frame, about: reading one takes the API process a millisecond or two.
_FRAME_BYTES = 2**20
# Bytes that may wait for the sender's thread.
_MAX_QUEUED_BYTES = 64 * 2**20
# Milliseconds in which a closed socket still sends its frames.
_LINGER = 2_000
# Seconds that `close` waits for the thread.
_CLOSE_SECONDS = 5.0


@dataclass(frozen=True)
class Rows:
    """The rows of one pass on their way out of the worker; their copy to host memory may still be under way.

    Attributes:
        runs: the requests of the rows, in the order of the rows.
        widths: columns of each tapped layer.
        values: `[num_rows, ROW_HEAD + sum(widths)]`, float32, host memory, as in a frame.
        ready: recorded after the copy from device to host; None where the values are in host memory already.
        time: when the pass was queued, seconds since 1970.
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


@dataclass
class _Losses:
    """Losses that an API process has not heard of yet: `dropped`, `failed_rows` and `failed_passes` of a frame."""

    dropped: int = 0
    rows: int = 0
    passes: int = 0


class _Connect(NamedTuple):
    """Asks the thread to send the rows of an API process to an endpoint."""

    api_process: str
    endpoint: str


class _Notice(NamedTuple):
    """Asks the thread to send a frame without rows to every API process."""


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
        self._queue: queue.SimpleQueue[Rows | _Connect | _Notice | None] = queue.SimpleQueue()
        # Bytes that the worker has queued, and bytes that the thread has sent. Each number has one writer.
        self._put = 0
        self._taken = 0
        # The lock guards what both threads change: the losses, and whether a notice waits.
        self._lock = threading.Lock()
        self._losses: defaultdict[str, _Losses] = defaultdict(_Losses)
        self._notice_waits = False
        self._weights = 0
        # Only the thread uses these.
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._encoder = msgspec.msgpack.Encoder()
        self._failures = FailureLog(logger, "Projections were not sent; the responses are incomplete.")
        self._thread = threading.Thread(target=self._run, name="traitwatch-sender", daemon=True)
        self._thread.start()

    def connect(self, api_process: str, endpoint: str) -> None:
        """Send the rows of `api_process` to `endpoint` from now on."""
        self._queue.put(_Connect(api_process, endpoint))

    def send(self, rows: Rows) -> None:
        """Queue rows and return at once. The rows are dropped where more than `_MAX_QUEUED_BYTES` wait."""
        if self._put - self._taken > _MAX_QUEUED_BYTES:
            with self._lock:
                for run in rows.runs:
                    self._losses[api_process_of(run.key)].dropped += run.count
            return
        self._put += rows.nbytes
        self._queue.put(rows)

    def count_failed_pass(self, api_process: str) -> None:
        """Count a pass whose rows could not be read, and tell an API process so."""
        with self._lock:
            self._losses[api_process].passes += 1
        self._notify()

    def set_weights(self, fingerprint: int) -> None:
        """Tell all API processes with which weights the worker computes from now on."""
        self._weights = fingerprint
        self._notify()

    def close(self) -> None:
        """Send the queued rows and end the thread."""
        self._queue.put(None)
        self._thread.join(timeout=_CLOSE_SECONDS)
        if self._thread.is_alive():
            logger.warning("The last projections were not sent within %g s; they are lost.", _CLOSE_SECONDS)

    def _notify(self) -> None:
        with self._lock:
            waits, self._notice_waits = self._notice_waits, True
        if not waits:
            self._queue.put(_Notice())

    def _run(self) -> None:
        context = zmq.Context()
        while (item := self._queue.get()) is not None:
            try:
                self._handle(context, item)
            except Exception as error:  # noqa: BLE001 (a FailureLog logs it)
                # A failure of one pass must not end the monitoring of later passes.
                self._failures.failed(error)
            finally:
                self._taken += item.nbytes if isinstance(item, Rows) else 0
        for socket in self._sockets.values():
            socket.close()
        context.term()

    def _handle(self, context: "zmq.Context[zmq.Socket[bytes]]", item: Rows | _Connect | _Notice) -> None:
        if isinstance(item, _Connect):
            self._sockets[item.api_process] = _push_socket(context, item.endpoint)
        elif isinstance(item, _Notice):
            with self._lock:
                self._notice_waits = False
            for api_process in self._sockets:
                self._send(api_process, [], [0] * len(self._layers), time.time(), b"")
        else:
            self._send_rows(item)

    def _send_rows(self, rows: Rows) -> None:
        """Send each API process its rows of a pass. Where that fails, count the rows that did not go.

        Raises:
            Exception: the first failure.
        """
        left = dict.fromkeys((api_process_of(run.key) for run in rows.runs), 0)
        for run in rows.runs:
            left[api_process_of(run.key)] += run.count
        failures: list[Exception] = []
        try:
            in_host_memory = rows.time
            if rows.ready is not None:
                rows.ready.synchronize()
                # The pass was queued before it ran: that time is no time of the transport.
                in_host_memory = time.time()
            for api_process, runs, values in _by_owner(rows):
                try:
                    for part, data in _in_frames(runs, values):
                        self._send(api_process, part, rows.widths, in_host_memory, data)
                        left[api_process] -= sum(run.count for run in part)
                    del left[api_process]
                except Exception as error:  # noqa: BLE001 (the other API processes still get their rows)
                    failures.append(error)
        except Exception as error:  # noqa: BLE001 (the rows are counted first)
            failures.append(error)
        if failures:
            self._count_failed(left)
            raise failures[0]

    def _count_failed(self, left: dict[str, int]) -> None:
        """Count the rows of a pass that did not go to their API processes, and the pass once."""
        with self._lock:
            for api_process, count in left.items():
                self._losses[api_process].rows += count
            known = [*left, *self._sockets]
            reported_to = next((name for name in known if name in self._sockets), known[0])
            self._losses[reported_to].passes += 1
        self._notify()

    def _send(
        self, api_process: str, runs: Sequence[RowRun], widths: Sequence[int], in_host_memory: float, values: bytes
    ) -> None:
        """Send one frame, or count its rows as dropped where its reader lags."""
        socket = self._sockets[api_process]
        with self._lock:
            told = self._losses.pop(api_process, _Losses())
        frame = RowFrame(
            self._layers,
            list(widths),
            list(runs),
            told.dropped,
            self._engine,
            in_host_memory,
            values,
            told.rows,
            told.passes,
            self._weights,
        )
        sent = False
        try:
            socket.send(self._encoder.encode(frame), zmq.NOBLOCK)
            sent = True
        except zmq.Again:
            told.dropped += sum(run.count for run in runs)
        finally:
            if not sent:
                with self._lock:
                    losses = self._losses[api_process]
                    losses.dropped += told.dropped
                    losses.rows += told.rows
                    losses.passes += told.passes


def _push_socket(context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str) -> "zmq.Socket[bytes]":
    socket = context.socket(zmq.PUSH)
    try:
        socket.set_hwm(HIGH_WATER_MARK)
        socket.linger = _LINGER
        socket.connect(endpoint)
    except zmq.ZMQError:
        # The end of the context would wait for this socket.
        socket.close()
        raise
    return socket


def _by_owner(rows: Rows) -> list[tuple[str, Sequence[RowRun], Float32Array]]:
    """Split rows by API process. With one process, which is the usual case, nothing is copied."""
    owners = [api_process_of(run.key) for run in rows.runs]
    values: Float32Array = rows.values.numpy()
    if len(set(owners)) == 1:
        return [(owners[0], rows.runs, values)]
    ends = np.cumsum([run.count for run in rows.runs])
    parts: list[tuple[str, Sequence[RowRun], Float32Array]] = []
    for owner in dict.fromkeys(owners):
        mine = [i for i, o in enumerate(owners) if o == owner]
        of_mine = np.concatenate([values[ends[i] - rows.runs[i].count : ends[i]] for i in mine])
        parts.append((owner, [rows.runs[i] for i in mine], of_mine))
    return parts


def _in_frames(runs: Sequence[RowRun], values: Float32Array) -> Iterator[tuple[Sequence[RowRun], bytes]]:
    """Split rows into frames. A long run, as of a prompt, goes into several: runs of the same request.

    Args:
        runs: the runs of the rows, in their order.
        values: `[num_rows, ...]`, float32.
    """
    if values.nbytes <= _FRAME_BYTES:
        yield runs, values.tobytes()
        return
    most = max(1, _FRAME_BYTES // (values.nbytes // values.shape[0]))
    waiting: list[RowRun] = []
    start = end = 0
    for run in runs:
        left = run.count
        while left:
            count = min(left, most - (end - start))
            waiting.append(msgspec.structs.replace(run, count=count))
            left -= count
            end += count
            if end - start == most:
                yield waiting, values[start:end].tobytes()
                waiting, start = [], end
    if waiting:
        yield waiting, values[start:end].tobytes()
