"""Projecting hidden states on persona vectors: `h . v / ||v||`, layer by layer (Persona Vectors, arXiv 2507.21509)."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from traitwatch.vectors import Float32Array


def unit_rows(vector: Float32Array) -> Float32Array:
    """Return `v / ||v||` per layer, float32; a zero row stays zero.

    Args:
        vector: `[..., hidden_size]`, float32, e.g. `[num_layers + 1, hidden_size]` or a stack of such vectors.
    """
    norms = np.linalg.norm(vector.astype(np.float64), axis=-1, keepdims=True)
    unit: Float32Array = (vector / np.where(norms == 0.0, 1.0, norms)).astype(np.float32)
    return unit


def bad_layers(values: npt.NDArray[np.floating], axis: int = -2) -> list[int]:
    """Return the layers at which `values`, whose layer index runs along `axis`, hold NaN or infinity."""
    others = tuple(i for i in range(values.ndim) if i != axis % values.ndim)
    bad: Iterable[int] = np.flatnonzero(~np.isfinite(values).all(axis=others)).tolist()
    return list(bad)
