"""The baseline of a vector: projections of response tokens of neutral prompts, mean and standard deviation per layer.

It is measured on what a server scores: answers to bare prompts, token by token. A token's state is that of the pass
in which it was the input, so the last token of an answer that was cut off has none.
"""

import datetime
from collections.abc import Iterable, Sequence

import numpy as np

from builder.artifacts import Calibration, Float32Array, LayerCalibration
from builder.errors import PipelineError


def unit_rows(vector: Float32Array) -> Float32Array:
    """Return `v / ||v||` per layer: `[num_layers + 1, hidden_size]`, float32; a zero row stays zero."""
    norms = np.linalg.norm(vector.astype(np.float64), axis=1, keepdims=True)
    unit: Float32Array = (vector / np.where(norms == 0.0, 1.0, norms)).astype(np.float32)
    return unit


def projections(states: Float32Array, vector: Float32Array) -> Float32Array:
    """Return the projection of every state on its layer's vector.

    Args:
        states: `[num_layers + 1, num_tokens, hidden_size]`, float32.
        vector: `[num_layers + 1, hidden_size]`, float32.

    Returns:
        `[num_layers + 1, num_tokens]`, float32, units of the hidden state.
    """
    result: Float32Array = np.einsum("lth,lh->lt", states, unit_rows(vector))
    return result


def baseline(token_projections: Iterable[Float32Array], num_prompts: int) -> Calibration:
    """Return the calibration of a vector.

    Args:
        token_projections: per neutral answer, `[num_layers + 1, num_token_states]`, units of the hidden state.
        num_prompts: prompts that were answered.

    Raises:
        PipelineError: fewer than two token states in all.
    """
    parts = [p for p in token_projections if p.shape[1]]
    values = np.concatenate(parts, axis=1).astype(np.float64) if parts else np.zeros((1, 0))
    if values.shape[1] < 2:
        raise PipelineError("the neutral prompts gave no answers to calibrate on; check the model.")
    return Calibration(
        layers=[LayerCalibration(mean=float(row.mean()), std=max(float(row.std(ddof=1)), 1e-12)) for row in values],
        num_prompts=num_prompts,
        num_tokens=values.shape[1],
        engine="transformers, float32",
        date=datetime.datetime.now(tz=datetime.UTC).date(),
    )


def scored_tokens(tokens: Sequence[int], *, finished: bool) -> list[int]:
    """Return the tokens of an answer that have a state in serving: all, or all but the last where it was cut off."""
    return list(tokens) if finished else list(tokens[:-1])
