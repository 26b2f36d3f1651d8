"""The ledger: projections on their way from the worker to the response they belong to.

A request is opened before vLLM sees it and closed when its response has gone out or its client has left; rows for a
request that is not open are counted and dropped, so nothing stays behind. Rows are addressed by place: a later write
to a place replaces the earlier one, which is what preemption and recomputation need. All of it runs in the event
loop of the API process.
"""

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np

from builder.artifacts import Float32Array
from server.metrics import Metrics
from server.transport import Frame, Span

# More open requests than this, and new ones are answered unscored.
MAX_OPEN_REQUESTS = 16_384
_FIRST_CAPACITY = 64


class ChoiceRows:
    """The projections of one choice, by place: -1 the prompt-last state, 0 the first token's, and so on."""

    def __init__(self, num_columns: int):
        # NaN marks what has not come; a projection that is NaN counts as missing, which it is.
        self._values = np.full((_FIRST_CAPACITY, num_columns), np.nan, dtype=np.float32)
        self._end = -1
        self._contiguous = 0

    def write(self, start: int, columns: slice, rows: Float32Array) -> None:
        """Put rows at `start`; `rows`: `[num_rows, num_columns of this worker]`, float32."""
        first, end = start + 1, start + 1 + rows.shape[0]
        if first < 0:
            raise ValueError(f"rows start at place {start}, before the prompt-last state")
        if end > self._values.shape[0]:
            grown = np.full((max(end, 2 * self._values.shape[0]), self._values.shape[1]), np.nan, dtype=np.float32)
            grown[: self._values.shape[0]] = self._values
            self._values = grown
        self._values[first:end, columns] = rows
        self._end = max(self._end, end - 1)

    def prompt_last(self) -> Float32Array:
        """Return the prompt-last projections: `[num_columns]`, NaN where they have not come."""
        first: Float32Array = self._values[0]
        return first

    def states(self, count: int) -> Float32Array:
        """Return the projections of the first `count` token states: `[count, num_columns]`, NaN where missing."""
        states = self._values[1 : 1 + count]
        if states.shape[0] < count:
            missing = np.full((count - states.shape[0], states.shape[1]), np.nan, dtype=np.float32)
            states = np.concatenate([states, missing])
        return states

    def contiguous(self) -> int:
        """Return how many token states have come without a gap, from the first on."""
        while self._contiguous < self._end and not np.isnan(self._values[1 + self._contiguous]).any():
            self._contiguous += 1
        return self._contiguous

    def complete(self, num_states: int) -> bool:
        """Tell whether the prompt-last state and the first `num_states` token states are all here."""
        return self.contiguous() >= num_states and not np.isnan(self._values[0]).any()


class OpenRequest:
    """One request whose response is on its way.

    Attributes:
        key: what the worker calls it.
        accepted: False when the ledger was full: then no rows will come.
    """

    def __init__(self, key: str, num_columns: int, choices_per_prompt: int, *, accepted: bool):
        self.key = key
        self.accepted = accepted
        self._num_columns = num_columns
        self._choices_per_prompt = choices_per_prompt
        self._choices: dict[int, ChoiceRows] = {}
        self._arrived = asyncio.Event()

    def choice(self, index: int) -> ChoiceRows:
        """Return the rows of the choice with `index`."""
        rows = self._choices.get(index)
        if rows is None:
            rows = self._choices[index] = ChoiceRows(self._num_columns)
        return rows

    def write(self, span: Span, columns: slice, rows: Float32Array) -> None:
        """Put the rows of a span where they belong and wake whoever waits."""
        self.choice(choice_index(span.req_id, self._choices_per_prompt)).write(span.start, columns, rows)
        self._arrived.set()

    async def wait_complete(self, index: int, num_states: int, timeout: float) -> bool:
        """Wait until a choice is complete; False when `timeout` seconds were not enough."""
        rows = self.choice(index)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while not rows.complete(num_states):
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), deadline - loop.time())
            except TimeoutError:
                return False
        return True


class Ledger:
    """The open requests of one API process."""

    def __init__(self, traits_per_layer: Mapping[int, int], metrics: Metrics):
        """Start empty.

        Args:
            traits_per_layer: tapped layer to its number of vectors; columns are in ascending order of layer.
            metrics: where open requests, and rows that nobody waits for, are counted.
        """
        self._columns: dict[int, slice] = {}
        self._num_columns = 0
        for layer in sorted(traits_per_layer):
            self._columns[layer] = slice(self._num_columns, self._num_columns + traits_per_layer[layer])
            self._num_columns += traits_per_layer[layer]
        self._metrics = metrics
        self._open: dict[str, OpenRequest] = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(self, key: str, choices_per_prompt: int = 1) -> OpenRequest:
        """Open a request; not accepted when too many are open, and then it goes unscored."""
        accepted = len(self._open) < MAX_OPEN_REQUESTS
        request = OpenRequest(key, self._num_columns, choices_per_prompt, accepted=accepted)
        if accepted:
            self._open[key] = request
            self._metrics.ledger_requests.set(len(self._open))
        return request

    def close(self, request: OpenRequest) -> None:
        """Forget a request and its rows."""
        self._open.pop(request.key, None)
        self._metrics.ledger_requests.set(len(self._open))

    def deliver(self, frame: Frame) -> None:
        """Take a frame from a worker.

        Raises:
            ValueError: the data is not as long as the spans say, or names layers that are not tapped.
        """
        columns = self._frame_columns(frame.layers)
        num_rows = sum(span.count for span in frame.spans)
        rows = np.frombuffer(frame.data, dtype=np.float32).reshape(num_rows, columns.stop - columns.start)
        first = 0
        for span in frame.spans:
            request = self._open.get(span.key)
            if request is None:
                self._metrics.rows_unclaimed.inc(span.count)
            else:
                request.write(span, columns, rows[first : first + span.count])
            first += span.count

    def _frame_columns(self, layers: Sequence[int]) -> slice:
        """Return the columns of a worker's layers; a pipeline stage holds a run of consecutive layers."""
        unknown = [layer for layer in layers if layer not in self._columns]
        if unknown or not layers:
            raise ValueError(f"rows of layers {list(layers)}, tapped are {sorted(self._columns)}")
        return slice(self._columns[min(layers)].start, self._columns[max(layers)].stop)


def choice_index(req_id: str, choices_per_prompt: int) -> int:
    """Return which choice of a response a vLLM request is.

    vLLM names them `[<k>_]chatcmpl-<id>-<random>` and `[<k>_]cmpl-<id>-<prompt>-<random>`; choice k of prompt p is
    choice p * n + k of the response.
    """
    head, _, tail = req_id.partition("_")
    k, name = (int(head), tail) if head.isdecimal() and tail else (0, req_id)
    if name.startswith("cmpl-"):
        prompt = name.rsplit("-", 2)[1]
        if prompt.isdecimal():
            return int(prompt) * choices_per_prompt + k
    return k
