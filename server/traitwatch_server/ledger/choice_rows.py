"""The rows of one choice as they arrive, and which of their projections count.

A row is stored by its place: place -1 is the state at the prompt's last position, place 0 that of the first generated
token, and so on. Where the prompt is scored too, its tokens have the places from -prompt_len on. A later row at a place
replaces the earlier one, which is what preemption and recomputation need.

A row counts only where the token that was its input is the token that the response has at that place. So a draft that
speculation tried and rejected leaves no trace, and a row of another request is missing instead of wrong. The drafts
after a rejected one belong to another text, even where the response gets the same tokens later. Therefore a write that
brings another token than a place had also removes every row beyond the write.
"""

from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from traitwatch.vectors import Float32Array
from traitwatch_server.ledger.row_store import RowStore
from traitwatch_server.traits import Columns
from traitwatch_server.wire import UNKNOWN_TOKEN

# Token ids are kept in arrays of this type: 4 bytes each, and compared without a look at every single one.
_IDS = "i"
# Stands for the token of a row that has not come.
_NO_TOKEN = -1
# What a choice takes beside its rows: the objects, and arrays without elements.
_CHOICE_BYTES = 1_400


class Stage(NamedTuple):
    """A worker as a source of rows: a pipeline stage, which holds some of the layers.

    Attributes:
        layers: the tapped layers of the stage, ascending.
        widths: the columns that it sends of each of them. They become more when a trait is loaded.
    """

    layers: tuple[int, ...]
    widths: tuple[int, ...]


class RowBlock(msgspec.Struct, gc=False):
    """Rows of one request from one forward pass, at positions that follow one another.

    Attributes:
        prompt_len: tokens of the prompt.
        positions: the position of each row in the text.
        token_ids: the token that was the input of each row.
        values: `[num_rows, columns of the stage]`, float32, units of the hidden state.
    """

    prompt_len: int
    positions: Sequence[int]
    token_ids: Sequence[int]
    values: Float32Array


class _StageRows:
    """Which rows of a choice one stage has sent, and what was the input of each.

    Attributes:
        widths: the columns of its last block.
        copies: which of these columns go where (`Columns.copies`).
        token_ids: of each row the token that was its input, or `_NO_TOKEN`.
    """

    __slots__ = ("_end", "copies", "token_ids", "widths")

    def __init__(self, capacity: int):
        self.widths: tuple[int, ...] = ()
        self.copies: Sequence[tuple[slice, slice]] = ()
        self.token_ids = array(_IDS, [_NO_TOKEN]) * capacity
        # The end of the rows that were written and not removed.
        self._end = 0

    def put(self, first: int, token_ids: Sequence[int]) -> int | None:
        """Note the tokens of the rows from `first` on; where one of them is another than before, remove what follows.

        Returns:
            The first row that had another token, where there is one.
        """
        end = first + len(token_ids)
        replaced = self._replaced(first, token_ids) if first < self._end else None
        if replaced is not None and end < self._end:
            self.token_ids[end : self._end] = array(_IDS, [_NO_TOKEN]) * (self._end - end)
            self._end = end
        if end - first == 1:
            self.token_ids[first] = token_ids[0]
        else:
            self.token_ids[first:end] = array(_IDS, token_ids)
        self._end = max(self._end, end)
        return replaced

    def _replaced(self, first: int, token_ids: Sequence[int]) -> int | None:
        known = self.token_ids[first : min(first + len(token_ids), self._end)]
        for row, (old, new) in enumerate(zip(known, token_ids, strict=False), first):
            if old not in (new, _NO_TOKEN):
                return row
        return None

    def same(self, first: int, tokens: "array[int]", *, prompt: bool = False) -> int:
        """Return how many rows from `first` on, without a gap, are here and had these tokens as input.

        Args:
            first: the first row.
            tokens: the tokens of the text at these rows.
            prompt: whether they are tokens of the prompt. A prompt of embeddings has no ids to compare.
        """
        different = self.other(first, tokens, prompt=prompt)
        return different[0] if different else len(tokens)

    def other(self, first: int, tokens: "array[int]", *, prompt: bool = False) -> list[int]:
        """Return which rows from `first` on are missing, or had another token as input; arguments as of `same`."""
        here = self.token_ids[first : first + len(tokens)]
        if here == tokens:
            return []
        here.extend([_NO_TOKEN] * (len(tokens) - len(here)))
        ids = np.array(here)
        different = ids != np.array(tokens)
        if prompt:
            different &= ids != UNKNOWN_TOKEN
        places: list[int] = np.flatnonzero(different).tolist()
        return places


class ChoiceRows:
    """The rows of one choice.

    Attributes:
        columns: the columns of a row.
        tokens: ids of the tokens generated so far, as the engine's outputs have them.
        prompt_len: tokens of the prompt, once a row came.
    """

    def __init__(self, columns: Columns, *, with_prompt: bool, reserve: Callable[[int], bool]):
        """Start without rows.

        Args:
            columns: the columns of a row.
            with_prompt: whether the rows of the prompt's tokens are stored too.
            reserve: called with the bytes of every growth. Where it returns False, the new rows are not stored.
        """
        self.columns = columns
        self.prompt_len: int | None = None
        self._with_prompt = with_prompt
        self._reserve = reserve
        self.tokens: array[int] = array(_IDS)
        self._prompt: Sequence[int] = ()
        # The place of the first row; known with the prompt's length.
        self._first = -1
        self._store = RowStore(columns.total)
        self._stages: dict[tuple[int, ...], _StageRows] = {}
        # Whether a row of every tapped layer has come.
        self._covered = not columns.widths
        # Number of token states that are here without a gap, from the first on, as far as `matched` has looked.
        self._matched = 0
        # The same of the prompt's rows, where they are stored.
        self._prompt_matched = 0
        reserve(_CHOICE_BYTES)

    @property
    def prompt(self) -> Sequence[int]:
        """Ids of the prompt's tokens, once an output of the engine had them."""
        return self._prompt

    @prompt.setter
    def prompt(self, token_ids: Sequence[int]) -> None:
        # Without the prompt's rows, it is vLLM's own list, which vLLM keeps as long.
        self._prompt = array(_IDS, token_ids) if self._with_prompt else token_ids

    def write(self, stage: Stage, block: RowBlock) -> bool:
        """Store rows of a stage.

        Returns:
            False where there was no room for them.

        Raises:
            ValueError: a position is before the first row that is stored, the positions do not follow one another, or
                a layer of the stage is not tapped.
        """
        if self.prompt_len is None:
            self.prompt_len = block.prompt_len
            self._first = -block.prompt_len if self._with_prompt else -1
        offset = block.prompt_len + self._first
        first, end = block.positions[0] - offset, block.positions[-1] - offset + 1
        if first < 0:
            raise ValueError(f"rows from position {block.positions[0]} on, before the first of interest, {offset}")
        if end - first != len(block.token_ids):
            raise ValueError(f"rows from position {block.positions[0]} on, which do not follow one another")
        rows = self._stages.get(stage.layers)
        if rows is None or rows.widths != stage.widths:
            rows = self._of_stage(stage)
        if end > self._store.capacity and not self._grow(end):
            return False
        self._store.write(first, block.values, rows.copies)
        replaced = rows.put(first, block.token_ids)
        if replaced is not None:
            self._matched = min(self._matched, max(0, replaced + self._first))
            self._prompt_matched = min(self._prompt_matched, replaced)
        return True

    def _of_stage(self, stage: Stage) -> _StageRows:
        """Return the rows of a stage that sends these columns from now on."""
        copies = self.columns.copies(stage.layers, stage.widths)
        rows = self._stages.get(stage.layers)
        if rows is None:
            rows = self._stages[stage.layers] = _StageRows(self._store.capacity)
            self._reserve(self._store.capacity * rows.token_ids.itemsize)
        rows.widths, rows.copies = stage.widths, copies
        self._covered = sum(map(len, self._stages)) == len(self.columns.widths)
        return rows

    def _grow(self, needed: int) -> bool:
        # Beside its projections, a row has a token id from each stage, and one as a token of the text.
        row_bytes = 4 * (self.columns.total + len(self._stages) + 1)
        old = self._store.capacity
        if not self._store.grow(needed, lambda rows: self._reserve(rows * row_bytes)):
            return False
        missing = array(_IDS, [_NO_TOKEN]) * (self._store.capacity - old)
        for rows in self._stages.values():
            rows.token_ids.extend(missing)
        return True

    def matched(self) -> int:
        """Return how many token states are here without a gap, from the first on: `len(tokens) - 1` when all are."""
        limit = len(self.tokens) - 1
        if self._matched < limit and self._covered:
            self._matched += self._leading(self._row_of(self._matched), self.tokens[self._matched : limit])
        return max(0, min(self._matched, limit))

    def _leading(self, first: int, tokens: "array[int]", *, prompt: bool = False) -> int:
        """Return how many rows from `first` on every stage has sent for these tokens."""
        count = len(tokens)
        for rows in self._stages.values():
            count = min(count, rows.same(first, tokens, prompt=prompt))
        return count

    def due(self) -> bool:
        """Tell whether every state is here that the engine has computed: that of every token but the last."""
        return self.matched() >= len(self.tokens) - 1

    def complete(self) -> bool:
        """Tell whether every state is here: those of the tokens, and the prompt-last state or those of the prompt."""
        return not self.tokens or (self.due() and self._prompt_complete())

    def states(self, start: int, end: int) -> Float32Array:
        """Return the projections of token states `start` to `end`: `[end - start, columns]`, NaN where missing.

        Where all of them have matched, the array may be a view: the caller must read it at once.
        """
        if end <= self._matched:
            return self._store.read(self._row_of(start), self._row_of(end))
        return self._matching(self._row_of(start), self.tokens[start:end])

    def prompt_states(self, start: int, end: int) -> Float32Array:
        """Return the projections of the prompt's tokens `start` to `end`, like `states`.

        They are stored only with `with_prompt`.
        """
        if end <= self._prompt_matched:
            return self._store.read(start, end)
        return self._matching(start, array(_IDS, self._prompt[start:end]), prompt=True)

    def prompt_last(self) -> Float32Array:
        """Return the projections of the prompt-last state: `[columns]`, NaN where it is missing."""
        row = self._row_of(-1)
        if not self._prompt:
            # There are no ids to compare with.
            unknown: Float32Array = self._store.read(row, row + 1)[0].copy()
            return unknown
        last: Float32Array = self._matching(row, array(_IDS, self._prompt[-1:]), prompt=True)[0]
        return last

    def _row_of(self, place: int) -> int:
        return place - self._first

    def _prompt_complete(self) -> bool:
        if not self._covered:
            return False
        if not self._with_prompt:
            last = array(_IDS, self._prompt[-1:])
            return self._leading(self._row_of(-1), last, prompt=True) == len(last)
        rest = array(_IDS, self._prompt[self._prompt_matched :])
        self._prompt_matched += self._leading(self._prompt_matched, rest, prompt=True)
        return self._prompt_matched >= len(self._prompt)

    def _matching(self, first: int, tokens: "array[int]", *, prompt: bool = False) -> Float32Array:
        """Return rows from `first` on: `[len(tokens), columns]`, NaN where one is missing or of another token."""
        values = self._store.read(first, first + len(tokens)).copy()
        for rows in self._stages.values():
            values[rows.other(first, tokens, prompt=prompt)] = np.nan
        return values
