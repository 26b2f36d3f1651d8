"""The API process's end of the transport: a ZeroMQ PULL socket whose frames go to the ledger."""

import logging
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio

from traitwatch_server.metrics import Metrics
from traitwatch_server.wire import HIGH_WATER_MARK, RowFrame

logger = logging.getLogger(__name__)


class Receiver:
    """Receives frames in the API process and hands them to the ledger.

    The socket is `ipc://` in the launcher's directory. It is not ours to make and to remove: vLLM kills API processes
    where there are several, and what they left would stay.
    """

    def __init__(self, metrics: Metrics, directory: Path):
        """Listen.

        Args:
            metrics: where frames that cannot be read, and rows that were lost, are counted.
            directory: where the socket is to be; nobody else may enter it.
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
        """Deliver every frame, until cancelled. A frame that cannot be read is counted and passed over."""
        decoder = msgspec.msgpack.Decoder(RowFrame)
        try:
            while True:
                message = await self._socket.recv()
                try:
                    frame = decoder.decode(message)
                    if frame.dropped:
                        self._metrics.rows_dropped["reader_behind"].inc(frame.dropped)
                    deliver(frame)
                except (msgspec.DecodeError, ValueError) as error:
                    self._metrics.frames_unreadable.inc()
                    logger.warning("A frame of projections was not readable and was dropped: %s", error)
        finally:
            self._socket.close(linger=0)
            self._context.term()
            self._path.unlink(missing_ok=True)
