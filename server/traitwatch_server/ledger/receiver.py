"""The API process's end of the transport: a ZeroMQ PULL socket. It hands every frame to the ledger."""

import asyncio
import logging
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio

from traitwatch.failures import FailureLog
from traitwatch_server.metrics import Metrics
from traitwatch_server.wire import HIGH_WATER_MARK, RowFrame

# Bytes of frames that one turn of the event loop reads: those of a large frame, or of hundreds of small ones.
_TURN_BYTES = 2**18

logger = logging.getLogger(__name__)


class Receiver:
    """Receives frames in the API process and hands them to the ledger.

    The socket is `ipc://` in the launcher's directory. The launcher makes and removes this directory: where there are
    several API processes, vLLM kills them, and their own directories would stay.

    Attributes:
        api_process: the name of this API process, with which its keys begin.
        endpoint: the address to which the workers send.
    """

    def __init__(self, metrics: Metrics, directory: Path):
        """Listen.

        Args:
            metrics: counts frames that cannot be read, and rows that were lost.
            directory: the directory of the socket; other users must not have access to it.
        """
        self.api_process = uuid.uuid4().hex[:12]
        self._metrics = metrics
        self._path = directory / self.api_process
        self.endpoint = f"ipc://{self._path}"
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.PULL)
        self._socket.set_hwm(HIGH_WATER_MARK)
        self._socket.bind(self.endpoint)

    async def run(self, deliver: Callable[[RowFrame], None]) -> None:
        """Deliver every frame, until cancelled. A frame that cannot be read is counted and dropped."""
        decoder = msgspec.msgpack.Decoder(RowFrame)
        unreadable = FailureLog(logger, "A frame of projections was not readable and was dropped.")
        received = 0
        try:
            while True:
                message = await self._socket.recv()
                try:
                    frame = decoder.decode(message)
                    if frame.dropped:
                        self._metrics.rows_dropped["reader_behind"].inc(frame.dropped)
                    if frame.failed_rows:
                        self._metrics.rows_dropped["worker_failed"].inc(frame.failed_rows)
                    if frame.failed_passes:
                        self._metrics.passes_failed[self._metrics.engine_of(frame.engine)].inc(frame.failed_passes)
                    deliver(frame)
                except (msgspec.DecodeError, ValueError) as error:
                    self._metrics.frames_unreadable.inc()
                    unreadable.failed(error)
                # Where frames wait, `recv` returns without a turn of the loop. Others want theirs.
                received += len(message)
                if received > _TURN_BYTES:
                    received = 0
                    await asyncio.sleep(0)
        finally:
            self._socket.close(linger=0)
            self._context.term()
            self._path.unlink(missing_ok=True)
