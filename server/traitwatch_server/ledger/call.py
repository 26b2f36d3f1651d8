"""One call of the engine, from its opening to its closing: the rows of its choices, and their scores."""

import secrets
from collections.abc import Callable, Coroutine
from typing import Any

from traitwatch_server.ledger.choice_rows import ChoiceRows, RowBlock, Stage
from traitwatch_server.ledger.scores import Scores, States, score, states_of
from traitwatch_server.ledger.waiter import FrameWatch, Waiter
from traitwatch_server.pacing import Steps
from traitwatch_server.traits import TraitSet

# What a call takes beside its choices: the objects, its key and its place in the ledger.
CALL_BYTES = 1_600


class _Memory:
    """The bytes of a call. Its choices hold this, and not the call: a cycle would keep the rows until gc runs."""

    __slots__ = ("_reserve", "nbytes")

    def __init__(self, reserve: Callable[[int], bool]):
        self.nbytes = CALL_BYTES
        self._reserve = reserve

    def take(self, nbytes: int) -> bool:
        """Take more bytes; return False where there is no room for them."""
        if not self._reserve(nbytes):
            return False
        self.nbytes += nbytes
        return True


class Call:
    """One call of the engine: a prompt and its choices.

    Attributes:
        key: the key under which the worker sends its rows.
        accepted: False where the ledger was full: then no rows will come.
        loaded: the traits that the server had when the call began.
        num_choices: `n` of its sampling parameters.
        request_id: the engine's id of the request. A client may have chosen it.
        call_id: a random id for everybody to see: no client has chosen it, and no rows come under it.
        with_prompt: whether the prompt's tokens are scored too.
        started: whether the engine was asked for its first output.
        engine: index of the engine that runs the call, once a row has come.
        adapter: name of the LoRA adapter that answers; None for the model itself.
        columns: the columns of its rows.
    """

    def __init__(
        self,
        key: str,
        loaded: TraitSet,
        num_choices: int,
        *,
        request_id: str,
        with_prompt: bool,
        holders: int,
        accepted: bool,
        reserve: Callable[[int], bool],
        frames: FrameWatch,
    ):
        """Start without rows; see the attributes.

        Args:
            key: as the attribute.
            loaded: as the attribute.
            num_choices: as the attribute.
            request_id: as the attribute.
            with_prompt: as the attribute.
            holders: how many will let go of the call.
            accepted: as the attribute.
            reserve: called with the bytes of new rows. Where it returns False, there is no room for them. The first
                `CALL_BYTES` are taken already.
            frames: the frames that come to this process.
        """
        self.key = key
        self.accepted = accepted
        self.loaded = loaded
        self.num_choices = num_choices
        self.request_id = request_id
        self.call_id = secrets.token_hex(8)
        self.with_prompt = with_prompt
        self.started = False
        self.engine: int | None = None
        self.adapter: str | None = None
        self.columns = loaded.columns
        self._memory = _Memory(reserve)
        self._holders = holders
        self._waiter = Waiter(frames)
        self._choices: dict[int, ChoiceRows] = {}
        # Of each complete choice, its number of tokens and its scores; or the steps to them, as far as they were done.
        self._scores: dict[int, tuple[int, Scores]] = {}
        self._scoring: dict[int, tuple[int, Steps[Scores]]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes that the call takes."""
        return self._memory.nbytes

    def choice(self, index: int) -> ChoiceRows:
        """Return the rows of the choice with `index`, 0 to num_choices - 1."""
        rows = self._choices.get(index)
        if rows is None:
            rows = ChoiceRows(self.columns, with_prompt=self.with_prompt, reserve=self._memory.take)
            self._choices[index] = rows
        return rows

    def choice_of(self, req_id: str) -> ChoiceRows:
        """Return the rows of one of vLLM's requests: vLLM names choice k of several `<k>_<request id>`.

        Raises:
            ValueError: the name is of no choice of this call.
        """
        if self.num_choices == 1:
            return self.choice(0)
        number = req_id.partition("_")[0]
        if not number.isdecimal() or int(number) >= self.num_choices:
            raise ValueError(f"rows of {req_id!r}, which is none of {self.num_choices} choices")
        return self.choice(int(number))

    def write(self, req_id: str, engine: int, stage: Stage, block: RowBlock) -> bool:
        """Store rows that came, and wake whoever waits for rows.

        Args:
            req_id: vLLM's id of the request.
            engine: index of the engine that sent the rows.
            stage: the worker that sent them.
            block: the rows.

        Returns:
            False where there was no room for them.

        Raises:
            ValueError: the rows cannot be of this call.
        """
        self.engine = engine
        try:
            return self.choice_of(req_id).write(stage, block)
        finally:
            self._waiter.wake()

    def complete(self) -> bool:
        """Tell whether every choice is complete."""
        return all(self.choice(index).complete() for index in range(self.num_choices))

    def wait_complete(self, index: int, timeout: float) -> Coroutine[Any, Any, bool]:
        """Wait until a choice is complete; False where `timeout` seconds were not enough."""
        return self._waiter.complete(self.choice(index), timeout)

    async def wait_due(self, index: int) -> None:
        """Wait a moment for the rows that an event of the choice may have overtaken."""
        if self.accepted:
            await self._waiter.due(self.choice(index))

    def scores(self, index: int) -> Steps[Scores]:
        """Compute the scores of a choice so far, for all loaded traits; NaN where rows are missing.

        A complete choice is scored once: its response and its record share the scores, and do the steps together.
        """
        rows = self.choice(index)
        count = len(rows.tokens)
        if not rows.complete():
            return (yield from self._score(rows))
        while (known := self._scores.get(index)) is None or known[0] != count:
            scoring = self._scoring.get(index)
            if scoring is None or scoring[0] != count:
                scoring = self._scoring[index] = count, self._score(rows)
            try:
                next(scoring[1])
            except StopIteration as ended:
                self._scores[index] = count, ended.value
            except BaseException:
                del self._scoring[index]
                raise
            else:
                yield
        return known[1]

    def _score(self, rows: ChoiceRows) -> Steps[Scores]:
        states = States(len(rows.tokens), lambda start, end: states_of(rows, start, end))
        return score(self.loaded, states, rows.prompt_last())

    def let_go(self) -> bool:
        """Note that one holder needs the rows no more; return whether it was the last."""
        self._holders -= 1
        return self._holders <= 0
