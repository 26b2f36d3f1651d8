"""Finds the vectors in a published file: tensors `[rows, hidden_size]`, and dictionaries or lists of one row each.

`find_candidates` walks the content; `choose` takes the one that `--key` names, or the only one. Each candidate knows
the index that the file gives to each of its rows: the place in a stack, the number in a key, the `layers` beside it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from traitwatch.errors import ArtifactError
from traitwatch.tensor_values import describe, is_floating, is_tensor, shape_of, shortened
from traitwatch.vectors import listed_layers
from traitwatch_builder.importing.formats import Published

# A pickle may hold itself, or many times the same list.
_DEEPEST = 5
_MOST_NODES = 20_000
_LISTED = 12
_MOST_LAYERS = 10_000
# A key with one number, and what stands before the number: `12`, `layer_12`, `model.layers.12`, `direction.12`.
_NUMBERED = re.compile(r"(\D*)(\d{1,4})(\D*)")
_LAYER_WORD = re.compile(
    r"(?:^|[._/ -])(?:layers?|blocks?|h|l|direction|resid|hidden_?states?)[._/ -]?$", re.IGNORECASE
)
_LAYERS_BESIDE = ("layers", "layer_indices", "layer_idxs", "layer_ids")
_LAYER_BESIDE = ("layer", "layer_idx", "layer_index", "layer_num", "layer_number")


@dataclass(frozen=True)
class Candidate:
    """Something in a file that can be a persona vector.

    Attributes:
        key: the keys that lead to it, joined with dots; empty for the file itself.
        tensors: one tensor of all rows, or one tensor for each row.
        indexes: the file's index of each row; None where the file has none, for a single row.
        stacked: whether the indexes are places in a stack, so that all rows from 0 are there.
        names: the keys with N for their number, for example `model.layers.N`; empty where no key has one.
        beside: plain values of the file that say more, the nearest first.
        hidden_size: length of a row.
    """

    key: str
    tensors: Sequence[Any]
    indexes: Sequence[int] | None
    stacked: bool
    names: str
    beside: Sequence[tuple[str, Any]]
    hidden_size: int

    @property
    def is_single(self) -> bool:
        """Whether it is one row, of one layer."""
        return len(self.tensors) == 1 and _dimensions(self.tensors[0]) == 1 and not self.names

    @property
    def words(self) -> str:
        """Its key and shape."""
        name = self.key or "the file itself"
        if len(self.tensors) == 1:
            return f"{name} ({describe(self.tensors[0])})"
        layers = listed_layers(list(self.indexes or ()))
        return f"{name} (layers {layers} of {describe(self.tensors[0])})"


def find_candidates(published: Published) -> list[Candidate]:
    """Return everything in a file that can be a persona vector."""
    beside = [(str(name), value) for name, value in published.metadata.items()]
    return list(_Walk().candidates(published.content, "", beside, 0))


def choose(published: Published, key: str | None, hidden_size: int | None) -> Candidate:
    """Return the candidate that `key` names, or the only one.

    Args:
        published: the file.
        key: the keys that lead to it, joined with dots; None if the user named none.
        hidden_size: that of the model, if it is known: then candidates of that width come first.

    Raises:
        ArtifactError: there is none, or several, or the key names none; with keys and shapes.
    """
    found = find_candidates(published)
    if not found:
        raise ArtifactError(
            f"{published.path} ({published.format}) has no vector of layers: it holds {describe(published.content)}. "
            "A vector is [layers, hidden_size], or has [hidden_size] for each layer; give a file with one."
        )
    if key is not None:
        named = [one for one in found if one.key == key] or [one for one in found if one.key.startswith(f"{key}.")]
        if not named:
            raise ArtifactError(f"{published.path} has no vector {key!r}; it has: {_listed(found)}. Give one as --key.")
        found = named
    for better in (_whole, lambda one: one.hidden_size == hidden_size):
        found = [one for one in found if better(one)] or found
    if len(found) > 1:
        raise ArtifactError(f"{published.path} has {len(found)} vectors: {_listed(found)}. Give one as --key.")
    return found[0]


def _whole(candidate: Candidate) -> bool:
    return not candidate.is_single


def _listed(found: Sequence[Candidate]) -> str:
    more = ", ..." if len(found) > _LISTED else ""
    return ", ".join(one.words for one in found[:_LISTED]) + more


class _Walk:
    def __init__(self) -> None:
        self._nodes = 0

    def candidates(self, value: Any, key: str, beside: Sequence[tuple[str, Any]], depth: int) -> Iterator[Candidate]:
        self._nodes += 1
        if depth > _DEEPEST or self._nodes > _MOST_NODES:
            return
        if is_tensor(value):
            yield from _of_tensor(value, key, beside)
        elif isinstance(value, Mapping):
            near = [*_plain(value), *beside]
            groups = _layer_groups(value)
            for names, rows in groups.items():
                numbers = sorted(rows)
                tensors = [rows[number][1] for number in numbers]
                text = "N".join(names)
                own_key = key if len(groups) == 1 else _joined(key, text)
                yield Candidate(own_key, tensors, numbers, False, text, near, _width(tensors[0]))
            numbered = {rows[number][0] for rows in groups.values() for number in rows}
            for name, inner in value.items():
                if name not in numbered:
                    yield from self.candidates(inner, _joined(key, name), near, depth + 1)
        elif isinstance(value, list | tuple):
            if len(value) > 1 and _are_rows(value):
                indexes = _layers_beside(beside, len(value)) or range(len(value))
                yield Candidate(key, list(value), indexes, isinstance(indexes, range), "", beside, _width(value[0]))
                return
            for number, inner in enumerate(value):
                yield from self.candidates(inner, _joined(key, number), beside, depth + 1)


def _of_tensor(tensor: Any, key: str, beside: Sequence[tuple[str, Any]]) -> Iterator[Candidate]:
    dimensions = _dimensions(tensor) if is_floating(tensor) else 0
    if dimensions == 2:
        rows = next(size for size in shape_of(tensor) if size != 1)
        listed = _layers_beside(beside, rows)
        yield Candidate(key, [tensor], listed or range(rows), listed is None, "", beside, _width(tensor))
    elif dimensions == 1 and _width(tensor) > 1:
        layer = next((v for name, v in beside if name in _LAYER_BESIDE and _is_index(v)), None)
        yield Candidate(key, [tensor], None if layer is None else [int(layer)], False, "", beside, _width(tensor))


def _layer_groups(value: Mapping[Any, Any]) -> dict[tuple[str, str], dict[int, tuple[Any, Any]]]:
    """Return the rows of single layers in a dictionary: by the text around their numbers, by number, with their keys.

    A group of different widths, or one whose keys are equal numbers, is no vector.
    """
    groups: dict[tuple[str, str], dict[int, tuple[Any, Any]]] = {}
    bad = set()
    for key, tensor in value.items():
        match = _NUMBERED.fullmatch(str(key)) if isinstance(key, str | int) and not isinstance(key, bool) else None
        if match is None or not is_floating(tensor) or not (match[1] == "" or _LAYER_WORD.search(match[1])):
            continue
        group = groups.setdefault((match[1], match[3]), {})
        if int(match[2]) in group:
            bad.add((match[1], match[3]))
        group[int(match[2])] = (key, tensor)
    return {
        names: rows
        for names, rows in groups.items()
        if names not in bad and _are_rows([tensor for _, tensor in rows.values()])
    }


def _are_rows(values: Sequence[Any]) -> bool:
    if not all(is_floating(value) and _dimensions(value) == 1 for value in values):
        return False
    return len({_width(value) for value in values}) == 1 and _width(values[0]) > 1


def _dimensions(tensor: Any) -> int:
    """Return the dimensions of a tensor other than those of size 1."""
    return sum(size != 1 for size in shape_of(tensor))


def _width(tensor: Any) -> int:
    shape = [size for size in shape_of(tensor) if size != 1]
    return shape[-1] if shape else 1


def _layers_beside(beside: Sequence[tuple[str, Any]], rows: int) -> list[int] | None:
    """Return a list of layers beside a stack that has one number for each row."""
    for name, value in beside:
        if name in _LAYERS_BESIDE and len(value := _listed_numbers(value)) == rows:
            numbers = [int(one) for one in value if _is_index(one)]
            if len(set(numbers)) == rows:
                return numbers
    return None


def _listed_numbers(value: Any) -> Sequence[Any]:
    if isinstance(value, torch.Tensor | np.ndarray) and value.ndim == 1 and len(value) < _MOST_LAYERS:
        value = value.tolist()
    return value if isinstance(value, list | tuple) else ()


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_LAYERS


def _plain(value: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the plain values of a dictionary, and those of dictionaries in it that hold no tensor."""
    for key, inner in value.items():
        if not isinstance(key, str):
            continue
        if isinstance(inner, str | int | float | list | tuple) or (key in _LAYERS_BESIDE and is_tensor(inner)):
            yield key, inner
        elif isinstance(inner, Mapping) and len(inner) < 100 and not any(map(is_tensor, inner.values())):
            yield from ((k, v) for k, v in inner.items() if isinstance(k, str) and isinstance(v, str | int | float))


def _joined(key: str, name: object) -> str:
    text = shortened(str(name)) if isinstance(name, str | int) else type(name).__name__
    return f"{key}.{text}" if key else text
