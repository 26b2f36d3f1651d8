"""From worker to API process: ZeroMQ PUSH to PULL, one msgpack frame a forward pass.

A frame names the rows of the requests that asked to be scored and carries their projections as raw float32. Requests
are named by a key that the API process made up (`<api process>:<random>`), so a frame finds its response even when
two clients send the same request id, and goes only to the API process that waits for it.
"""

import logging
import queue
import tempfile
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
import zmq
import zmq.asyncio

from server.metrics import Metrics

logger = logging.getLogger(__name__)

# Where a request carries its key: in vllm_xargs, which reach the worker as sampling_params.extra_args.
REQUEST_KEY = "traitwatch"
# A frame is dropped, and counted by the response that misses it, when its reader lags this many frames behind.
_HIGH_WATER_MARK = 10_000


class Span(msgspec.Struct, array_like=True, frozen=True):
    """A run of consecutive rows of one request.

    Attributes:
        key: the key that the API process gave the request.
        req_id: vLLM's id of the request; tells which of the response's choices it is.
        start: place of the first row among the token states: -1 is the prompt-last state, 0 the first token's.
        count: number of rows.
    """

    key: str
    req_id: str
    start: int
    count: int


class Frame(msgspec.Struct, array_like=True, frozen=True):
    """The rows of one forward pass.

    Attributes:
        layers: the tapped layers of the worker that sends, ascending; tells which columns these are.
        spans: what the rows are, in their order.
        data: float32 `[sum of counts, num_columns]`, C order, units of the hidden state.
    """

    layers: list[int]
    spans: list[Span]
    data: bytes


def new_key(api_process: str) -> str:
    """Return an unguessable key for a request of this API process."""
    return f"{api_process}:{uuid.uuid4().hex}"


def api_process_of(key: str) -> str:
    """Return the API process that a key belongs to."""
    return key.partition(":")[0]


@dataclass(frozen=True)
class Rows:
    """Rows on their way out of the worker: a tensor that may still be in flight, and the event that ends the flight.

    Attributes:
        spans: what the rows are.
        projections: `[num_rows, num_columns]`, float32, host memory.
        ready: recorded after the device-to-host copy; None where there was none.
    """

    spans: Sequence[Span]
    projections: torch.Tensor
    ready: torch.cuda.Event | None


class Sender:
    """Sends rows from a thread of its own, so that the forward pass waits for neither the device nor the socket."""

    def __init__(self, layers: Sequence[int]):
        self._layers = list(layers)
        self._queue: queue.Queue[Rows | tuple[str, str] | None] = queue.Queue(_HIGH_WATER_MARK)
        self._thread = threading.Thread(target=self._run, name="traitwatch-sender", daemon=True)
        self._thread.start()

    def connect(self, api_process: str, endpoint: str) -> None:
        """Send the rows of `api_process` to `endpoint` from now on."""
        self._queue.put((api_process, endpoint))

    def send(self, rows: Rows) -> None:
        """Queue rows; returns at once, and drops them when the thread is hopelessly behind."""
        try:
            self._queue.put_nowait(rows)
        except queue.Full:
            logger.warning("Sending projections lags %d passes behind; rows were dropped.", _HIGH_WATER_MARK)

    def close(self) -> None:
        """Send what is queued and end the thread."""
        self._queue.put(None)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        sockets: dict[str, zmq.Socket[bytes]] = {}
        encoder = msgspec.msgpack.Encoder()
        context = zmq.Context()
        while (item := self._queue.get()) is not None:
            if isinstance(item, tuple):
                api_process, endpoint = item
                socket = context.socket(zmq.PUSH)
                socket.set_hwm(_HIGH_WATER_MARK)
                socket.linger = 0
                socket.connect(endpoint)
                sockets[api_process] = socket
                continue
            try:
                if item.ready is not None:
                    item.ready.synchronize()
                for api_process, frame in _frames(self._layers, item):
                    sockets[api_process].send(encoder.encode(frame), zmq.NOBLOCK)
            except Exception:
                # One bad pass must not end the monitoring of all that follow.
                logger.warning("Projections of a pass were not sent; its responses are incomplete.", exc_info=True)
        for socket in sockets.values():
            socket.close()
        context.term()


def _frames(layers: list[int], rows: Rows) -> list[tuple[str, Frame]]:
    """Split rows by API process; one process, the usual case, takes them as they are."""
    owners = [api_process_of(span.key) for span in rows.spans]
    values = rows.projections.numpy()
    if len(set(owners)) == 1:
        return [(owners[0], Frame(layers, list(rows.spans), values.tobytes()))]
    ends = np.cumsum([span.count for span in rows.spans])
    frames = []
    for owner in dict.fromkeys(owners):
        mine = [i for i, o in enumerate(owners) if o == owner]
        parts = [values[ends[i] - rows.spans[i].count : ends[i]] for i in mine]
        frames.append((owner, Frame(layers, [rows.spans[i] for i in mine], np.concatenate(parts).tobytes())))
    return frames


class Receiver:
    """Receives frames in the API process and hands them to the ledger.

    The socket is `ipc://` in a private directory (mode 0700) that is removed when the receiver goes away.
    """

    def __init__(self, metrics: Metrics):
        self.api_process = uuid.uuid4().hex[:12]
        self._metrics = metrics
        self._directory = tempfile.TemporaryDirectory(prefix="traitwatch-")
        self.endpoint = f"ipc://{Path(self._directory.name) / 'rows'}"
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.PULL)
        self._socket.set_hwm(_HIGH_WATER_MARK)
        self._socket.bind(self.endpoint)

    async def run(self, deliver: Callable[[Frame], None]) -> None:
        """Deliver every frame, until cancelled. A frame that cannot be read is counted and passed over."""
        decoder = msgspec.msgpack.Decoder(Frame)
        try:
            while True:
                message = await self._socket.recv()
                try:
                    deliver(decoder.decode(message))
                except (msgspec.DecodeError, ValueError) as error:
                    self._metrics.frames_unreadable.inc()
                    logger.warning("A frame of projections was not readable and was dropped: %s", error)
        finally:
            self._socket.close(linger=0)
            self._context.term()
            self._directory.cleanup()
