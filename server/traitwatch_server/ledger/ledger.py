"""The ledger: projections on their way from the worker to the response they belong to.

Every call of the engine that is to be scored is opened here under a key of its own before vLLM sees it, and closed
when its response has gone out or its client has left; rows of a call that is not open are counted and dropped, so
nothing stays behind. All of it runs in the event loop of the API process.
"""

import asyncio
import logging
import time
from collections.abc import Callable

import numpy as np

from traitwatch_server.ledger.choice_rows import ChoiceRows
from traitwatch_server.ledger.scores import Scores
from traitwatch_server.metrics import Metrics
from traitwatch_server.traits import TraitSet
from traitwatch_server.wire import ROW_HEAD, RowFrame, new_key

# More open calls or more bytes of rows than this, and new ones are answered unscored. A row of six traits has 24 bytes.
MAX_OPEN_CALLS = 16_384
MAX_BYTES = 2**30
# Seconds that an answer may wait for its last rows. They take milliseconds; this is for rows that were lost.
ROWS_TIMEOUT = 1.0
# Seconds that an event waits for the rows that it has overtaken: outputs and rows go different ways to this process.
OVERTAKEN_TIMEOUT = 0.02
# Seconds that an answer waits for its last rows once frames have stopped to come.
SILENT_TIMEOUT = 0.05
# Seconds by which a timer is late where the event loop did not run.
_STALL = 0.1


logger = logging.getLogger(__name__)


class Call:
    """One call of the engine: a prompt and its choices.

    Attributes:
        key: what the worker calls it.
        accepted: False when the ledger was full: then no rows will come.
        loaded: the traits that the server had when it began.
        num_choices: `n` of its sampling parameters.
        request_id: the engine's id of the request.
        with_prompt: whether the prompt's tokens are scored too.
        holders: how many still need its rows: its response, and the recorder.
        started: whether the engine was asked for its first output.
        engine: index of the engine that runs it, once a row has come.
        adapter: name of the LoRA adapter that answers; None for the model itself.
    """

    def __init__(
        self,
        ledger: "Ledger",
        key: str,
        loaded: TraitSet,
        num_choices: int,
        *,
        request_id: str,
        with_prompt: bool,
        holders: int,
        accepted: bool,
    ):
        self.key = key
        self.accepted = accepted
        self.loaded = loaded
        self.num_choices = num_choices
        self.request_id = request_id
        self.with_prompt = with_prompt
        self.holders = holders
        self.started = False
        self.engine: int | None = None
        self.adapter: str | None = None
        self.columns = loaded.columns
        self._ledger = ledger
        self._scores: dict[int, tuple[int, Scores]] = {}
        self._choices: dict[int, ChoiceRows] = {}
        # Choices that have waited in vain for rows that were due.
        self._lagging: set[int] = set()
        self._arrived = asyncio.Event()

    def choice(self, index: int) -> ChoiceRows:
        """Return the rows of the choice with `index`, 0 to num_choices - 1."""
        rows = self._choices.get(index)
        if rows is None:
            rows = ChoiceRows(self.columns, with_prompt=self.with_prompt, reserve=self._ledger.reserve)
            self._choices[index] = rows
        return rows

    def choice_of(self, req_id: str) -> ChoiceRows:
        """Return the rows of one of vLLM's requests: choice k of several is called `<k>_<request id>`."""
        if self.num_choices == 1:
            return self.choice(0)
        number = req_id.partition("_")[0]
        if not number.isdecimal() or int(number) >= self.num_choices:
            raise ValueError(f"rows of {req_id!r}, which is none of {self.num_choices} choices")
        return self.choice(int(number))

    def complete(self) -> bool:
        """Tell whether every choice is complete."""
        return all(self.choice(index).complete() for index in range(self.num_choices))

    def scores(self, index: int) -> Scores:
        """Return the scores of a choice so far, for all loaded traits; NaN where rows are missing."""
        rows = self.choice(index)
        count = len(rows.tokens)
        known = self._scores.get(index)
        if known is not None and known[0] == count:
            return known[1]
        states = np.full((count, self.columns.total), np.nan, dtype=np.float32)
        if count:
            states[:-1] = rows.states(0, count - 1)
        places = self.loaded.places
        scores = Scores(self.loaded.all, states[:, places].T, rows.prompt_last()[places])
        if rows.complete():
            self._scores[index] = count, scores
        return scores

    def arrived(self) -> None:
        """Wake whoever waits for rows."""
        self._arrived.set()

    async def wait_complete(self, index: int, timeout: float) -> bool:
        """Wait until a choice is complete; False when `timeout` seconds were not enough.

        Where frames have stopped to come altogether, the wait is much shorter: a fault costs one timeout, not one
        an answer.
        """
        seen = await self._until(
            self.choice(index).complete, min(timeout, SILENT_TIMEOUT) if self._ledger.silent else timeout
        )
        if seen is not None:
            self._ledger.silent = self._ledger.frames == seen
        return seen is None

    async def wait_due(self, index: int) -> None:
        """Wait a moment for the states of the tokens that the engine has fed, which an event may have overtaken.

        Where rows lag, a choice waits in vain once, until they have caught up: a fault does not slow a stream down.
        """
        rows = self.choice(index)
        if rows.due():
            self._lagging.discard(index)
            return
        if not self.accepted or self._ledger.silent or index in self._lagging:
            return
        if await self._until(rows.due, OVERTAKEN_TIMEOUT) is not None:
            self._lagging.add(index)

    async def _until(self, condition: Callable[[], bool], timeout: float) -> int | None:
        """Wait until a condition of the rows holds; None then.

        Returns:
            When `timeout` seconds were not enough, the frames that the ledger had when a row of this call last came.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        stood_still = False
        while not condition():
            self._arrived.clear()
            seen = self._ledger.frames
            try:
                await asyncio.wait_for(self._arrived.wait(), deadline - loop.time())
            except TimeoutError:
                if stood_still or loop.time() - deadline < _STALL:
                    return seen
                # This process itself stood still, and has not read what came meanwhile: once, wait anew.
                stood_still = True
                deadline = loop.time() + timeout
        return None

    @property
    def nbytes(self) -> int:
        """Bytes that its rows take."""
        return sum(rows.nbytes for rows in self._choices.values())


class Ledger:
    """The open calls of one API process.

    Attributes:
        frames: frames that have come so far.
        silent: whether rows were waited for in vain while no frame came at all, and none has come since.
    """

    def __init__(self, api_process: str, metrics: Metrics):
        """Start empty.

        Args:
            api_process: the prefix of this process's keys.
            metrics: where open calls, and rows that nobody waits for, are counted.
        """
        self.frames = 0
        self.silent = False
        self._api_process = api_process
        self._metrics = metrics
        self._open: dict[str, Call] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._open)

    def open(
        self,
        loaded: TraitSet,
        num_choices: int = 1,
        *,
        request_id: str = "",
        with_prompt: bool = False,
        holders: int = 1,
    ) -> Call:
        """Open a call; not accepted when too much is open, and then it goes unscored.

        Args:
            loaded: the traits that it is scored for.
            num_choices: `n` of its sampling parameters.
            request_id: the engine's id of the request.
            with_prompt: whether the prompt's tokens are scored too.
            holders: how many will `release` it; the last closes it.
        """
        call = Call(
            self,
            new_key(self._api_process),
            loaded,
            num_choices,
            request_id=request_id,
            with_prompt=with_prompt,
            holders=holders,
            accepted=len(self._open) < MAX_OPEN_CALLS and self._bytes < MAX_BYTES,
        )
        if call.accepted:
            self._open[call.key] = call
            self._tell()
        return call

    def release(self, call: Call) -> None:
        """Say that one of a call's holders needs its rows no more."""
        call.holders -= 1
        if call.holders <= 0:
            self.close(call)

    def close(self, call: Call) -> None:
        """Forget a call and its rows, whoever holds it."""
        if self._open.pop(call.key, None) is not None:
            self._bytes -= call.nbytes
            self._tell()

    def reserve(self, nbytes: int) -> bool:
        """Take bytes for rows; False when there are not so many."""
        if self._bytes + nbytes > MAX_BYTES:
            return False
        self._bytes += nbytes
        return True

    def deliver(self, frame: RowFrame) -> None:
        """Take a frame from a worker. Rows that cannot be are counted and dropped, and cost no other request its own.

        Raises:
            ValueError: the data is not as long as the runs say.
        """
        self.frames += 1
        self.silent = False
        lag = max(0.0, time.time() - frame.time)
        self._metrics.transport_lag[self._metrics.engine_of(frame.engine)].observe(lag)
        num_rows = sum(run.count for run in frame.runs)
        self._metrics.rows_received.inc(num_rows)
        values = np.frombuffer(frame.data, dtype=np.float32).reshape(num_rows, ROW_HEAD + sum(frame.widths))
        positions, token_ids = values[:, :ROW_HEAD].astype(np.int64).T.tolist()
        rows = values[:, ROW_HEAD:]
        layers = tuple(frame.layers)
        first = 0
        for run in frame.runs:
            end = first + run.count
            call = self._open.get(run.key)
            if call is None:
                self._metrics.rows_unclaimed.inc(run.count)
            else:
                call.engine = frame.engine
                try:
                    kept = call.choice_of(run.req_id).write(
                        layers,
                        call.columns.copies(frame.layers, frame.widths),
                        run.prompt_len,
                        positions[first:end],
                        token_ids[first:end],
                        rows[first:end],
                    )
                    if not kept:
                        self._metrics.rows_dropped["ledger_full"].inc(run.count)
                except ValueError as error:
                    self._metrics.rows_dropped["misplaced"].inc(run.count)
                    logger.warning("Rows that cannot be a request's were dropped: %s", error)
                call.arrived()
            first = end

    def _tell(self) -> None:
        self._metrics.ledger_requests.set(len(self._open))
        self._metrics.ledger_bytes.set(self._bytes)
