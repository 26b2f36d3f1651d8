"""The ledger: projections on their way from the worker to the response they belong to.

Every call of the engine that is to be scored is opened here under a key of its own before vLLM sees it, and closed
when its response has gone out or its client has left; rows of a call that is not open are counted and dropped, so
nothing stays behind. All of it runs in the event loop of the API process.
"""

import asyncio

import numpy as np

from server.choice_rows import ChoiceRows
from server.columns import Columns
from server.metrics import Metrics
from server.transport import ROW_HEAD, Frame, new_key

# More open calls or more bytes of rows than this, and new ones are answered unscored. A row of six traits has 24 bytes.
MAX_OPEN_CALLS = 16_384
MAX_BYTES = 2**30
# Seconds that an answer waits for its last rows once frames have stopped to come.
SILENT_TIMEOUT = 0.05


class Call:
    """One call of the engine: a prompt and its choices.

    Attributes:
        key: what the worker calls it.
        accepted: False when the ledger was full: then no rows will come.
        num_choices: `n` of its sampling parameters.
        columns: the columns of its rows.
        with_prompt: whether the prompt's tokens are scored too.
    """

    def __init__(
        self, ledger: "Ledger", key: str, columns: Columns, num_choices: int, *, with_prompt: bool, accepted: bool
    ):
        self.key = key
        self.accepted = accepted
        self.num_choices = num_choices
        self.columns = columns
        self.with_prompt = with_prompt
        self._ledger = ledger
        self._choices: dict[int, ChoiceRows] = {}
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

    def arrived(self) -> None:
        """Wake whoever waits for rows."""
        self._arrived.set()

    async def wait_complete(self, index: int, timeout: float) -> bool:
        """Wait until a choice is complete; False when `timeout` seconds were not enough.

        Where frames have stopped to come altogether, the wait is much shorter: a fault costs one timeout, not one
        an answer.
        """
        rows = self.choice(index)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (min(timeout, SILENT_TIMEOUT) if self._ledger.silent else timeout)
        while not rows.complete():
            self._arrived.clear()
            seen = self._ledger.frames
            try:
                await asyncio.wait_for(self._arrived.wait(), deadline - loop.time())
            except TimeoutError:
                self._ledger.silent = self._ledger.frames == seen
                return False
        return True

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

    def open(self, columns: Columns, num_choices: int = 1, *, with_prompt: bool = False) -> Call:
        """Open a call; not accepted when too much is open, and then it goes unscored."""
        accepted = len(self._open) < MAX_OPEN_CALLS and self._bytes < MAX_BYTES
        key = new_key(self._api_process)
        call = Call(self, key, columns, num_choices, with_prompt=with_prompt, accepted=accepted)
        if accepted:
            self._open[key] = call
            self._metrics.ledger_requests.set(len(self._open))
        return call

    def close(self, call: Call) -> None:
        """Forget a call and its rows."""
        if self._open.pop(call.key, None) is not None:
            self._bytes -= call.nbytes
            self._metrics.ledger_requests.set(len(self._open))

    def reserve(self, nbytes: int) -> bool:
        """Take bytes for rows; False when there are not so many."""
        if self._bytes + nbytes > MAX_BYTES:
            return False
        self._bytes += nbytes
        return True

    def deliver(self, frame: Frame) -> None:
        """Take a frame from a worker.

        Raises:
            ValueError: the data is not as long as the spans say, names layers that are not tapped, or the like.
        """
        self.frames += 1
        self.silent = False
        num_rows = sum(span.count for span in frame.spans)
        self._metrics.rows_received.inc(num_rows)
        values = np.frombuffer(frame.data, dtype=np.float32).reshape(num_rows, ROW_HEAD + sum(frame.widths))
        positions, token_ids = values[:, :ROW_HEAD].astype(np.int64).T.tolist()
        rows = values[:, ROW_HEAD:]
        layers = tuple(frame.layers)
        first = 0
        for span in frame.spans:
            end = first + span.count
            call = self._open.get(span.key)
            if call is None:
                self._metrics.rows_unclaimed.inc(span.count)
            else:
                copies = call.columns.copies(frame.layers, frame.widths)
                choice = call.choice_of(span.req_id)
                kept = choice.write(
                    layers, copies, span.prompt_len, positions[first:end], token_ids[first:end], rows[first:end]
                )
                if not kept:
                    self._metrics.rows_dropped.labels("ledger_full").inc(span.count)
                call.arrived()
            first = end
