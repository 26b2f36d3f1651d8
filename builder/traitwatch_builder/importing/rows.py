"""Places the rows of a published vector: which row of the file is which layer index.

Two ways of counting are in use. Code that hooks the output of decoder layer i, counted from 0, writes it as row i:
`layers`. Code that takes `output_hidden_states` of transformers writes the embeddings as row 0, as Traitwatch does:
`layers+1`. Nobody sees in a score that it is one layer off, so `place` guesses nothing: the user says how the file
counts (`--rows`), or the file does (its hook point, its names, its number of rows).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from traitwatch.errors import ArtifactError
from traitwatch.tensor_values import as_float32, shortened
from traitwatch.vectors import Float32Array, bad_layers, listed_layers
from traitwatch_builder.importing.candidates import Candidate

Rows = Literal["layers", "layers+1"]

_MEANING: dict[Rows, str] = {
    "layers": "index i of the file is the output of decoder layer i, counted from 0: layer index i + 1",
    "layers+1": "index i of the file is layer index i: 0 the embeddings, i the state after i decoder layers",
}
_HOOK_KEYS = re.compile(r"(?:^|_)(?:hook|site|activation|component|stream)", re.IGNORECASE)
# What texts say of the place that was read; the first that is found counts.
_PLACES: Sequence[tuple[str, re.Pattern[str]]] = (
    ("layers+1", re.compile(r"hidden_?states?", re.IGNORECASE)),
    ("input", re.compile(r"resid(?:ual)?_?pre|(?:block|layer)_?input", re.IGNORECASE)),
    ("elsewhere", re.compile(r"mlp|attn|attention|z_out|head|logit", re.IGNORECASE)),
    ("layers", re.compile(r"(?:block|layer|decoder)_?out(?:put)?|resid(?:ual)?_?post|l_out|direction", re.IGNORECASE)),
)
# The names of a module in the model: `model.layers.N`, `transformer.h.N`, `blocks.N`.
_MODULE = re.compile(r"(?:\b(?:layers|blocks)|\.h)\.N")


@dataclass(frozen=True)
class Placed:
    """A published vector with its rows in place.

    Attributes:
        vector: `[num_layers + 1, hidden_size]`, float32; rows that the file lacks are zero.
        rows: how the file counts.
        convention: the same in words, with the reason.
        layers: the layer indices that the file has.
    """

    vector: Float32Array
    rows: Rows
    convention: str
    layers: Sequence[int]


def place(candidate: Candidate, where: str, *, rows: Rows | None, layer: int | None, num_layers: int | None) -> Placed:
    """Return a candidate with its rows in place.

    Args:
        candidate: what was chosen in the file.
        where: the file and key, for messages.
        rows: how the file counts, if the user says so.
        layer: the file's index of a single row, if the user says so.
        num_layers: decoder layers of the model, if they are known.

    Raises:
        ArtifactError: the file does not say how it counts or has rows that the model lacks, or its values are unusable.
    """
    indexes = _indexes(candidate, where, layer)
    read_at, reason = _read_at(candidate, where, indexes, rows, num_layers)
    offset = 1 if read_at == "layers" else 0
    total = num_layers if num_layers is not None else _derived_layers(indexes, read_at, candidate, where)
    layers = [index + offset for index in indexes]
    if max(layers) > total:
        raise ArtifactError(
            f"{where} has an index {max(indexes)}, which is layer index {max(layers)} ({reason}), but the model has "
            f"{total} layers; give the model of the vector, or the other --rows."
        )
    values = _values(candidate, where)
    vector = np.zeros((total + 1, candidate.hidden_size), dtype=np.float32)
    vector[layers] = values
    if not values.any():
        raise ArtifactError(f"{where} holds nothing but zeros; give another vector.")
    counted: Rows = "layers" if read_at == "layers" else "layers+1"
    return Placed(vector, counted, f"{_MEANING[counted]} ({reason})", sorted(layers))


def _indexes(candidate: Candidate, where: str, layer: int | None) -> list[int]:
    if candidate.is_single:
        if layer is not None:
            return [layer]
        if candidate.indexes is None:
            raise ArtifactError(
                f"{where} is the vector of one layer, {candidate.words}, and does not say of which; give its index as "
                "--layer."
            )
    elif layer is not None:
        raise ArtifactError(f"{where} has the vectors of several layers, so --layer says nothing; leave it out.")
    return list(candidate.indexes or ())


def _read_at(
    candidate: Candidate, where: str, indexes: Sequence[int], rows: Rows | None, num_layers: int | None
) -> tuple[str, str]:
    """Return what was read, `layers`, `layers+1` or `input` (of a decoder layer), and the reason."""
    at, reason = (rows, "--rows") if rows is not None else _said(candidate)
    if at == "elsewhere":
        raise ArtifactError(
            f"{where} was read at {reason}, and Traitwatch reads the residual stream after decoder layers alone. If it "
            "is one all the same, give --rows."
        )
    if num_layers is not None and candidate.stacked:
        counted = {num_layers: "layers", num_layers + 1: "layers+1"}.get(len(indexes))
        fits = counted == at or (at == "input" and counted == "layers")
        if counted is None or (at is not None and not fits):
            why = f" ({at}: {reason})" if at else ""
            raise ArtifactError(
                f"{where} has {len(indexes)} rows{why}, but the model has {num_layers} layers: {num_layers} rows would "
                f"be one a layer (--rows layers), {num_layers + 1} with the embeddings (--rows layers+1). Give the "
                "model of the vector, or the right --rows."
            )
        if at is None:
            return counted, f"{len(indexes)} rows for {num_layers} layers"
    if at is None and num_layers is not None:
        if max(indexes) == num_layers:
            return "layers+1", f"it has an index {num_layers}, and the model {num_layers} layers"
        if list(indexes) == list(range(num_layers)):
            return "layers", f"indices 0 to {num_layers - 1} for {num_layers} layers"
    if at is None:
        raise ArtifactError(
            f"{where} does not say how it counts {candidate.words}. Give --rows layers if "
            f"{_MEANING['layers']}; or --rows layers+1 if {_MEANING['layers+1']}."
        )
    return at, reason


def _said(candidate: Candidate) -> tuple[str | None, str]:
    """Return the place at which the file says that it was read, and its words; None where it says nothing."""
    texts = [(name, value) for name, value in candidate.beside if isinstance(value, str) and _HOOK_KEYS.search(name)]
    for name, text in [*texts, ("its names", candidate.names)]:
        for at, pattern in _PLACES:
            if pattern.search(text):
                return at, f"{shortened(name)}: {shortened(text)}"
    if _MODULE.search(candidate.names):
        return "layers", f"its names: {shortened(candidate.names)}"
    return None, ""


def _derived_layers(indexes: Sequence[int], read_at: str, candidate: Candidate, where: str) -> int:
    """Return the decoder layers of the model, where the file has a row of each layer but the first."""
    first, last = min(indexes), max(indexes)
    if len(indexes) != last - first + 1 or first > 1 or len(indexes) < 2:
        raise ArtifactError(
            f"{where} has {candidate.words}, so it does not say how many layers the model has; give --num-layers, or "
            "a --model whose config.json can be read."
        )
    return last if read_at == "layers+1" else last + 1


def _values(candidate: Candidate, where: str) -> Float32Array:
    """Return the rows, `[num_rows, hidden_size]`, float32."""
    parts = [as_float32(tensor, where) for tensor in candidate.tensors]
    values: Float32Array = np.concatenate([part.reshape(-1, candidate.hidden_size) for part in parts])
    if bad := bad_layers(values):
        places = [list(candidate.indexes or bad)[row] if len(values) > 1 else row for row in bad]
        raise ArtifactError(f"{where} has NaN or infinity at index {listed_layers(places)}; get a whole vector.")
    return values
