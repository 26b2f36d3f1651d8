"""The rows of one choice as they arrive, and which of their projections count.

A row is stored by its place: place -1 is the state at the prompt's last position, place 0 that of the first generated
token, and so on. Where the prompt is scored too, its tokens have the places from -prompt_len on. A later row at a place
replaces the earlier one, which is what preemption and recomputation need.

A row counts only where the token that was its input is the token that the response has at that place. So a draft that
speculation tried and rejected leaves no trace, and a row of another request is missing instead of wrong. The drafts
after a rejected one belong to another text, even where the response gets the same tokens later. Therefore a write that
brings another token than a place had also removes every row beyond the write.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from traitwatch.vectors import Float32Array
from traitwatch_server.traits import Columns
from traitwatch_server.wire import UNKNOWN_TOKEN

_FIRST_CAPACITY = 64
# Stands for the token of a row that has not come.
_NO_TOKEN = -1


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
        self.token_ids = [_NO_TOKEN] * capacity
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
            self.token_ids[end : self._end] = [_NO_TOKEN] * (self._end - end)
            self._end = end
        self.token_ids[first:end] = token_ids
        self._end = max(self._end, end)
        return replaced

    def _replaced(self, first: int, token_ids: Sequence[int]) -> int | None:
        known = self.token_ids[first : min(first + len(token_ids), self._end)]
        for row, (old, new) in enumerate(zip(known, token_ids, strict=False), first):
            if old not in (new, _NO_TOKEN):
                return row
        return None

    def matches(self, row: int, token_id: int) -> bool:
        """Tell whether a row is here, and its input was the token `token_id`."""
        return row < len(self.token_ids) and self.token_ids[row] == token_id

    def mismatched(self, first: int, token_ids: Sequence[int], *, prompt: bool = False) -> list[int]:
        """Return which of the rows from `first` on are missing or of another token than in `token_ids`.

        Args:
            first: the first row.
            token_ids: the tokens of the text at these rows.
            prompt: whether they are tokens of the prompt. A prompt of embeddings has no ids to compare.
        """
        known = self.token_ids[first : first + len(token_ids)]
        if known == list(token_ids):
            return []
        return [
            i
            for i, token in enumerate(token_ids)
            if i >= len(known) or (known[i] != token and not (prompt and known[i] == UNKNOWN_TOKEN))
        ]


class ChoiceRows:
    """The rows of one choice.

    Attributes:
        columns: the columns of a row.
        tokens: ids of the tokens generated so far, as the engine's outputs have them.
        prompt: ids of the prompt's tokens, once an output of the engine had them.
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
        self.tokens: list[int] = []
        self.prompt: Sequence[int] = ()
        self.prompt_len: int | None = None
        self._with_prompt = with_prompt
        self._reserve = reserve
        # The place of the first row; known with the prompt's length.
        self._first = -1
        self._values = np.empty((0, columns.total), dtype=np.float32)
        self._stages: dict[tuple[int, ...], _StageRows] = {}
        # Whether a row of every tapped layer has come.
        self._covered = not columns.widths
        # Number of token states that are here without a gap, from the first on, as far as `matched` has looked.
        self._matched = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the rows."""
        return int(self._values.nbytes)

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
            raise ValueError(f"rows at the positions {list(block.positions)}, which do not follow one another")
        if end > self._values.shape[0] and not self._grow(end):
            return False
        rows = self._stages.get(stage.layers)
        if rows is None or rows.widths != stage.widths:
            rows = self._of_stage(stage)
        for source, target in rows.copies:
            self._values[first:end, target] = block.values[:, source]
        replaced = rows.put(first, block.token_ids)
        if replaced is not None:
            self._matched = min(self._matched, max(0, replaced + self._first))
        return True

    def _of_stage(self, stage: Stage) -> _StageRows:
        """Return the rows of a stage that sends these columns from now on."""
        copies = self.columns.copies(stage.layers, stage.widths)
        rows = self._stages.setdefault(stage.layers, _StageRows(self._values.shape[0]))
        rows.widths, rows.copies = stage.widths, copies
        self._covered = sum(map(len, self._stages)) == len(self.columns.widths)
        return rows

    def _grow(self, needed: int) -> bool:
        old = self._values.shape[0]
        capacity = max(needed, 2 * old, _FIRST_CAPACITY)
        if not self._reserve((capacity - old) * self.columns.total * self._values.itemsize):
            return False
        grown = np.full((capacity, self.columns.total), np.nan, dtype=np.float32)
        grown[:old] = self._values
        self._values = grown
        for rows in self._stages.values():
            rows.token_ids.extend([_NO_TOKEN] * (capacity - old))
        return True

    def matched(self) -> int:
        """Return how many token states are here without a gap, from the first on: `len(tokens) - 1` when all are."""
        limit = len(self.tokens) - 1
        if self._matched >= limit or not self._covered:
            return max(0, min(self._matched, limit))
        for place in range(self._matched, limit):
            row, token = place - self._first, self.tokens[place]
            for rows in self._stages.values():
                if not rows.matches(row, token):
                    return place
            self._matched = place + 1
        return self._matched

    def due(self) -> bool:
        """Tell whether every state is here that the engine has computed: that of every token but the last."""
        return self.matched() >= len(self.tokens) - 1

    def complete(self) -> bool:
        """Tell whether every state is here: those of the tokens, and the prompt-last state or those of the prompt."""
        return not self.tokens or (self.due() and self._prompt_complete())

    def states(self, start: int, end: int) -> Float32Array:
        """Return the projections of token states `start` to `end`: `[end - start, columns]`, NaN where missing.

        Where all of them have matched, the array is a view: the caller must read it at once.
        """
        if end <= self._matched:
            return self._values[self._row_of(start) : self._row_of(end)]
        return self._matching(self._row_of(start), self._row_of(end), self.tokens[start:end])

    def prompt_states(self) -> Float32Array:
        """Return the projections of the prompt's tokens: `[prompt_len, columns]`, NaN where missing.

        They are stored only with `with_prompt`.
        """
        return self._matching(0, len(self.prompt), self.prompt, prompt=True)

    def prompt_last(self) -> Float32Array:
        """Return the projections of the prompt-last state: `[columns]`, NaN where it is missing."""
        row = self._row_of(-1)
        last: Float32Array = self._matching(row, row + 1, self.prompt[-1:], prompt=True)[0]
        return last

    def _row_of(self, place: int) -> int:
        return place - self._first

    def _prompt_complete(self) -> bool:
        wanted = self.prompt if self._with_prompt else self.prompt[-1:]
        first = 0 if self._with_prompt else self._row_of(-1)
        return self._covered and not any(rows.mismatched(first, wanted, prompt=True) for rows in self._stages.values())

    def _matching(self, first: int, end: int, tokens: Sequence[int], *, prompt: bool = False) -> Float32Array:
        """Return rows `first` to `end`: `[end - first, columns]`, NaN where a row is missing or of another token."""
        values = np.full((end - first, self.columns.total), np.nan, dtype=np.float32)
        here = self._values[first:end]
        values[: here.shape[0]] = here
        for rows in self._stages.values():
            wrong = rows.mismatched(first, tokens, prompt=prompt)
            if wrong:
                values[wrong] = np.nan
        return values
