"""The projections of one choice as they come in, and which of them can be told.

A row is kept by its place: -1 is the state at the prompt's last position, 0 that of the first token, and so on; where
the prompt's tokens are wanted too, theirs are the places from -prompt_len on. A later write to a place replaces the
earlier one, which is what preemption and recomputation need. A row counts only where the token that was its input is
the token that the response has there: a draft that speculation tried and dropped leaves no trace, and a row that went
astray is missing instead of wrong. The drafts after a dropped one are those of another text even where their tokens
come after all: where a write brings another token than was there, all that was written beyond it goes.
"""

from collections.abc import Callable, Sequence

import numpy as np

from traitwatch.vectors import Float32Array
from traitwatch_server.traits import Columns

_FIRST_CAPACITY = 64
_NOTHING = -1


class ChoiceRows:
    """The rows of one choice.

    Attributes:
        columns: what stands in a row.
        tokens: ids of the tokens generated so far, as the engine told them.
        prompt: ids of the prompt's tokens, once the engine has told them.
        prompt_len: tokens of the prompt, once a row came.
    """

    def __init__(self, columns: Columns, *, with_prompt: bool, reserve: Callable[[int], bool]):
        """Start empty.

        Args:
            columns: the columns of a row.
            with_prompt: whether the rows of the prompt's tokens are kept too.
            reserve: asked for the bytes of every growth; where it says no, the rows are not kept.
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
        # For each worker that sends (they hold different layers): the token id of each row, or _NOTHING.
        self._inputs: dict[tuple[int, ...], list[int]] = {}
        # For each of them: the end of the rows that are kept.
        self._ends: dict[tuple[int, ...], int] = {}
        self._matched = 0

    @property
    def nbytes(self) -> int:
        """Bytes that the rows take."""
        return int(self._values.nbytes)

    def write(
        self,
        layers: tuple[int, ...],
        copies: Sequence[tuple[slice, slice]],
        prompt_len: int,
        positions: Sequence[int],
        token_ids: Sequence[int],
        rows: Float32Array,
    ) -> bool:
        """Keep rows of a worker.

        Args:
            layers: the layers of the worker that sent them.
            copies: which of their columns go where (`Columns.copies`).
            prompt_len: tokens of the prompt.
            positions: of each row, its position in the text; ascending.
            token_ids: of each row, the token that was its input.
            rows: `[num_rows, columns of the worker]`, float32.

        Returns:
            False when there was no room for them.

        Raises:
            ValueError: a position is before the first row that is kept.
        """
        if self.prompt_len is None:
            self.prompt_len = prompt_len
            self._first = -prompt_len if self._with_prompt else -1
        offset = prompt_len + self._first
        places = [position - offset for position in positions]
        if min(places) < 0:
            raise ValueError(f"rows from position {min(positions)} on, before the first of interest, {offset}")
        if max(places) >= self._values.shape[0] and not self._grow(max(places) + 1):
            return False
        inputs = self._inputs.get(layers)
        if inputs is None:
            inputs = self._inputs[layers] = [_NOTHING] * self._values.shape[0]
        kept = self._ends.get(layers, 0)
        if places[0] < kept:
            kept = self._drop_other_text(inputs, places[0], token_ids, kept)
        self._ends[layers] = max(kept, places[-1] + 1)
        if len(places) == 1:
            place = places[0]
            for source, target in copies:
                self._values[place, target] = rows[0, source]
            inputs[place] = token_ids[0]
            return True
        for source, target in copies:
            self._values[places, target] = rows[:, source]
        for place, token_id in zip(places, token_ids, strict=True):
            inputs[place] = token_id
        return True

    def _drop_other_text(self, inputs: list[int], first: int, token_ids: Sequence[int], before: int) -> int:
        """Forget the rows that come after those about to be written, where these are of other tokens than were there.

        Args:
            inputs: the token ids of the worker's rows.
            first: the first row that is about to be written.
            token_ids: the tokens of the rows that are.
            before: the end of the rows that are kept now.

        Returns:
            The end of the rows that are kept from now on.
        """
        for row, token_id in enumerate(token_ids, first):
            if row == before:
                break
            if inputs[row] not in (token_id, _NOTHING):
                end = min(first + len(token_ids), before)
                inputs[end:before] = [_NOTHING] * (before - end)
                self._matched = min(self._matched, max(0, row + self._first))
                return end
        return before

    def _grow(self, needed: int) -> bool:
        old = self._values.shape[0]
        capacity = max(needed, 2 * old, _FIRST_CAPACITY)
        if not self._reserve((capacity - old) * self.columns.total * self._values.itemsize):
            return False
        grown = np.full((capacity, self.columns.total), np.nan, dtype=np.float32)
        grown[:old] = self._values
        self._values = grown
        for inputs in self._inputs.values():
            inputs.extend([_NOTHING] * (capacity - old))
        return True

    def matched(self) -> int:
        """Return how many token states are here without a gap, from the first on: `len(tokens) - 1` when all are."""
        limit = len(self.tokens) - 1
        if self._matched >= limit or not self._covered():
            return max(0, min(self._matched, limit))
        base = -self._first
        for place in range(self._matched, limit):
            row, token = base + place, self.tokens[place]
            if any(row >= len(inputs) or inputs[row] != token for inputs in self._inputs.values()):
                return place
            self._matched = place + 1
        return self._matched

    def due(self) -> bool:
        """Tell whether the state of every token is here that the engine has fed: of all but the last."""
        return self.matched() >= len(self.tokens) - 1

    def complete(self) -> bool:
        """Tell whether every state is here: the prompt's last (or all of its own, where wanted) and the tokens'."""
        return not self.tokens or (self.due() and self._prompt_complete())

    def states(self, start: int, end: int) -> Float32Array:
        """Return the projections of token states `start` to `end`: `[end - start, columns]`, NaN where missing.

        What has matched is returned as a view, to be read at once.
        """
        if end <= self._matched:
            return self._values[self._row_of(start) : self._row_of(end)]
        return self._told(self._row_of(start), self._row_of(end), self.tokens[start:end])

    def prompt_states(self) -> Float32Array:
        """Return the projections of the prompt's tokens: `[prompt_len, columns]`, NaN where missing; only if wanted."""
        return self._told(0, len(self.prompt), self.prompt)

    def prompt_last(self) -> Float32Array:
        """Return the projections of the prompt-last state: `[columns]`, NaN where they have not come."""
        row = self._row_of(-1)
        told: Float32Array = self._told(row, row + 1, self.prompt[-1:])[0]
        return told

    def _row_of(self, place: int) -> int:
        return place - self._first

    def _covered(self) -> bool:
        """Tell whether rows of every layer have come."""
        return sum(map(len, self._inputs)) == len(self.columns.widths)

    def _prompt_complete(self) -> bool:
        wanted = self.prompt if self._with_prompt else self.prompt[-1:]
        first = 0 if self._with_prompt else self._row_of(-1)
        return self._covered() and all(
            inputs[first : first + len(wanted)] == list(wanted) for inputs in self._inputs.values()
        )

    def _told(self, first: int, end: int, tokens: Sequence[int]) -> Float32Array:
        """Return rows `first` to `end`, NaN where they are missing or of other tokens than these."""
        told = np.full((end - first, self.columns.total), np.nan, dtype=np.float32)
        here = self._values[first:end]
        told[: here.shape[0]] = here
        for inputs in self._inputs.values():
            got = inputs[first:end]
            if got != list(tokens):
                wrong = [i for i, token in enumerate(tokens) if i >= len(got) or got[i] != token]
                told[wrong] = np.nan
        return told
