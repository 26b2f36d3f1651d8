"""Where each tapped layer's columns stand in the rows that a response keeps.

A worker sends, of each layer that it holds, the columns up to the last that was ever loaded. A response keeps the
columns that were in use when its request came, all layers side by side; traits that are loaded later do not change its
rows.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache


class Columns:
    """The columns of a response's rows. Equal for equal widths, and hashable.

    Attributes:
        widths: tapped layer to its number of columns, in ascending order of layer.
        total: columns of all layers.
    """

    def __init__(self, widths: Mapping[int, int]):
        self.widths = dict(sorted(widths.items()))
        self.total = sum(self.widths.values())
        self._first: dict[int, int] = {}
        first = 0
        for layer, width in self.widths.items():
            self._first[layer] = first
            first += width

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Columns) and other.widths == self.widths

    def __hash__(self) -> int:
        return hash(tuple(self.widths.items()))

    def place(self, layer: int, column: int) -> int:
        """Return where a layer's column stands in a row."""
        return self._first[layer] + column

    def copies(self, layers: Sequence[int], widths: Sequence[int]) -> tuple[tuple[slice, slice], ...]:
        """Return which columns of a worker's row go where: pairs of (in the worker's, in ours).

        Args:
            layers: the worker's tapped layers, ascending.
            widths: the columns that it sends of each.

        Raises:
            ValueError: a layer is not tapped.
        """
        return _copies(self, tuple(layers), tuple(widths))


@lru_cache(maxsize=256)
def _copies(columns: Columns, layers: tuple[int, ...], widths: tuple[int, ...]) -> tuple[tuple[slice, slice], ...]:
    unknown = [layer for layer in layers if layer not in columns.widths]
    if unknown or not layers or len(layers) != len(widths):
        raise ValueError(
            f"rows of layers {list(layers)} with {list(widths)} columns; tapped are {list(columns.widths)}"
        )
    pairs: list[tuple[slice, slice]] = []
    first = 0
    for layer, width in zip(layers, widths, strict=True):
        count = min(width, columns.widths[layer])
        target = columns.place(layer, 0)
        whole = pairs and pairs[-1][0].stop == first and pairs[-1][1].stop == target
        if whole:
            source_start, target_start = pairs[-1][0].start, pairs[-1][1].start
            pairs[-1] = (slice(source_start, first + count), slice(target_start, target + count))
        else:
            pairs.append((slice(first, first + count), slice(target, target + count)))
        first += width
    return tuple(pairs)
