"""The projections of the rows of one choice, in blocks, so that room for more rows never copies what is there.

The first block grows by doubling, since most answers are short. When it has `BLOCK_ROWS` rows, further blocks of this
size follow.
"""

from collections.abc import Callable, Sequence

import numpy as np

from traitwatch.vectors import Float32Array

BLOCK_ROWS = 4096
_FIRST_CAPACITY = 64


class RowStore:
    """Rows by their number, from 0 on. A value that was never written is NaN.

    Attributes:
        capacity: rows for which there is room.
    """

    def __init__(self, width: int):
        """Start without rows.

        Args:
            width: columns of a row.
        """
        self.capacity = 0
        self._width = width
        self._blocks: list[Float32Array] = []

    def grow(self, needed: int, reserve: Callable[[int], bool]) -> bool:
        """Make room for rows up to `needed`.

        Args:
            needed: number of rows.
            reserve: called with the number of new rows; where it returns False, there is no room for them.

        Returns:
            Whether there is room.
        """
        wanted = max(needed, min(2 * self.capacity, BLOCK_ROWS), _FIRST_CAPACITY)
        if wanted > BLOCK_ROWS:
            wanted = -(-wanted // BLOCK_ROWS) * BLOCK_ROWS
        if not reserve(wanted - self.capacity):
            return False
        if self.capacity < BLOCK_ROWS:
            first = np.full((min(wanted, BLOCK_ROWS), self._width), np.nan, dtype=np.float32)
            if self._blocks:
                first[: self.capacity] = self._blocks[0]
            self._blocks = [first]
        while len(self._blocks) * BLOCK_ROWS < wanted:
            self._blocks.append(np.full((BLOCK_ROWS, self._width), np.nan, dtype=np.float32))
        self.capacity = wanted
        return True

    def write(self, first: int, values: Float32Array, copies: Sequence[tuple[slice, slice]]) -> None:
        """Write rows for which there is room.

        Args:
            first: number of the first row.
            values: `[num_rows, columns of the sender]`, float32, units of the hidden state.
            copies: which of these columns go where.
        """
        done, count = 0, values.shape[0]
        while done < count:
            number, offset = divmod(first + done, BLOCK_ROWS)
            size = min(count - done, BLOCK_ROWS - offset)
            block = self._blocks[number]
            for source, target in copies:
                block[offset : offset + size, target] = values[done : done + size, source]
            done += size

    def read(self, first: int, end: int) -> Float32Array:
        """Return rows: `[end - first, width]`, float32. It is a view where they lie in one block: read it at once."""
        number, offset = divmod(first, BLOCK_ROWS)
        if offset + end - first <= BLOCK_ROWS and end <= self.capacity:
            return self._blocks[number][offset : offset + end - first]
        rows = np.full((end - first, self._width), np.nan, dtype=np.float32)
        start, limit = first, min(end, self.capacity)
        while start < limit:
            number, offset = divmod(start, BLOCK_ROWS)
            part = self._blocks[number][offset : offset + limit - start]
            rows[start - first : start - first + len(part)] = part
            start += len(part)
        return rows
