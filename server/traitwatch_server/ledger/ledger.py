"""The ledger: projections on their way from the worker to the response they belong to.

Every call of the engine that is to be scored is opened here, under a key of its own, before vLLM sees it. The call is
closed when its response has gone out or its client has left. Rows of a call that is not open are counted and dropped,
so nothing stays behind. Everything here runs in the event loop of the API process.
"""

import logging
import time
from collections.abc import Iterator

import numpy as np

from traitwatch.failures import FailureLog
from traitwatch_server.ledger.call import CALL_BYTES, Call
from traitwatch_server.ledger.choice_rows import RowBlock, Stage
from traitwatch_server.ledger.waiter import FrameWatch
from traitwatch_server.ledger.weights import WeightsWatch
from traitwatch_server.metrics import Metrics
from traitwatch_server.traits import TraitSet
from traitwatch_server.wire import ROW_HEAD, RowFrame, RowRun, new_key

# Above so many open calls or bytes, new calls are answered unscored. A row of six traits takes 32 bytes.
MAX_OPEN_CALLS = 16_384
MAX_BYTES = 2**30

logger = logging.getLogger(__name__)


class Ledger:
    """The open calls of one API process.

    Attributes:
        frames: whether frames come.
        weights: with which weights the workers compute.
    """

    def __init__(self, api_process: str, metrics: Metrics):
        """Start without calls.

        Args:
            api_process: the prefix of this process's keys.
            metrics: counts the open calls, and the rows that no call waits for.
        """
        self.frames = FrameWatch()
        self.weights = WeightsWatch()
        self._misplaced = FailureLog(logger, "Rows that cannot be a request's were dropped.")
        self._api_process = api_process
        self._metrics = metrics
        self._open: dict[str, Call] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def nbytes(self) -> int:
        """Bytes that the open calls take."""
        return self._bytes

    def open(
        self,
        loaded: TraitSet,
        num_choices: int = 1,
        *,
        request_id: str = "",
        with_prompt: bool = False,
        holders: int = 1,
    ) -> Call:
        """Open a call. It is not accepted while too much is open, and then goes unscored.

        Args:
            loaded: the traits that it is scored for.
            num_choices: `n` of its sampling parameters.
            request_id: the engine's id of the request.
            with_prompt: whether the prompt's tokens are scored too.
            holders: how many will `release` it; the last closes it.
        """
        call = Call(
            new_key(self._api_process),
            loaded,
            num_choices,
            request_id=request_id,
            with_prompt=with_prompt,
            holders=holders,
            accepted=len(self._open) < MAX_OPEN_CALLS and self._bytes < MAX_BYTES,
            reserve=self._reserve,
            frames=self.frames,
        )
        if call.accepted:
            self._open[call.key] = call
            self._bytes += CALL_BYTES
            self._count()
        return call

    def release(self, call: Call) -> None:
        """Note that one of a call's holders needs its rows no more; close the call after the last."""
        if call.let_go():
            self.close(call)

    def close(self, call: Call) -> None:
        """Forget a call and its rows, whoever holds it."""
        if self._open.pop(call.key, None) is not None:
            self._bytes -= call.nbytes
            self._count()

    def deliver(self, frame: RowFrame) -> None:
        """Give the rows of a frame to their calls.

        Rows that cannot be of their call are counted and dropped; the other rows of the frame are delivered.

        Raises:
            ValueError: the data is not as long as the runs need.
        """
        self.weights.came(frame)
        if not frame.runs:
            return
        self.frames.came()
        lag = max(0.0, time.time() - frame.time)
        self._metrics.transport_lag[self._metrics.engine_of(frame.engine)].observe(lag)
        stage = Stage(tuple(frame.layers), tuple(frame.widths))
        for run, block in self._blocks(frame):
            call = self._open.get(run.key)
            if call is None:
                self._metrics.rows_unclaimed.inc(run.count)
                continue
            try:
                if not call.write(run.req_id, frame.engine, stage, block):
                    self._metrics.rows_dropped["ledger_full"].inc(run.count)
            except (ValueError, OverflowError) as error:
                self._metrics.rows_dropped["misplaced"].inc(run.count)
                self._misplaced.failed(error)

    def _blocks(self, frame: RowFrame) -> Iterator[tuple[RowRun, RowBlock]]:
        """Yield each run of a frame with its rows."""
        num_rows = sum(run.count for run in frame.runs)
        self._metrics.rows_received.inc(num_rows)
        values = np.frombuffer(frame.data, dtype=np.float32).reshape(num_rows, ROW_HEAD + sum(frame.widths))
        positions, token_ids = values[:, :ROW_HEAD].astype(np.int64).T.tolist()
        projections = values[:, ROW_HEAD:]
        first = 0
        for run in frame.runs:
            end = first + run.count
            yield run, RowBlock(run.prompt_len, positions[first:end], token_ids[first:end], projections[first:end])
            first = end

    def _reserve(self, nbytes: int) -> bool:
        """Take bytes for rows; return False where there are not so many left."""
        if self._bytes + nbytes > MAX_BYTES:
            return False
        self._bytes += nbytes
        self._metrics.ledger_bytes.set(self._bytes)
        return True

    def _count(self) -> None:
        self._metrics.ledger_requests.set(len(self._open))
        self._metrics.ledger_bytes.set(self._bytes)
