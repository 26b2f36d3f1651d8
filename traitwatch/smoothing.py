"""The smoothing that spikes are found by, for whole responses and many layers at once; builder and server share it.

`traitwatch.spikes` finds the spikes of served responses with `WINDOW` and `MIN_TOKENS` of here, one token at a time;
`traitwatch_builder.vectors.calibrate` measures with the functions of here how often neutral responses have one. Both must mean the same
by a spike, hence one module; the server imports it, so there is no torch in it, and scipy only where it is called.

The smoothing is an exponentially weighted mean over tokens, s_i = s_{i-1} + a (z_i - s_{i-1}), a = 2 / (window + 1),
started at the baseline's own mean (s_{-1} = 0), so that one loud first token is not a spike.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

WINDOW = 8
"""Tokens of the smoothing."""

MIN_TOKENS = 3
"""A shorter run above the threshold is not a spike."""

Float64Array = npt.NDArray[np.float64]


def smooth(z: npt.NDArray[Any], window: int = WINDOW) -> Float64Array:
    """Return the exponentially weighted mean up to each token.

    Args:
        z: `[..., num_tokens]`, any float: z of each token state in order, all of them finite (a NaN would spread to all
            later tokens; the server, which can miss a state, has its own recursion).
        window: tokens of the smoothing, at least 1 (which is none).

    Returns:
        As `z`, float64.
    """
    from scipy.signal import lfilter  # type: ignore[import-untyped]

    if z.shape[-1] == 0:
        return np.zeros(z.shape)
    weight = 2.0 / (window + 1)
    smoothed: Float64Array = lfilter([weight], [1.0, weight - 1.0], np.asarray(z, dtype=np.float64), axis=-1)
    return smoothed


def peak_level(z: npt.NDArray[Any], window: int = WINDOW, min_tokens: int = MIN_TOKENS) -> Float64Array:
    """Return the level below which any threshold would give the response a spike.

    A spike is a run of at least `min_tokens` tokens whose smoothed z is above the threshold, so a response has one at
    threshold u exactly when u < max over i of min(s_i, ..., s_{i + min_tokens - 1}).

    Args:
        z: `[..., num_tokens]`, as of `smooth`.
        window: tokens of the smoothing.
        min_tokens: tokens of the shortest spike, at least 1.

    Returns:
        `[...]`, float64, in the unit of `z`; -inf where the response is too short to have a spike.
    """
    if z.shape[-1] < min_tokens:
        return np.full(z.shape[:-1], -np.inf)
    runs = np.lib.stride_tricks.sliding_window_view(smooth(z, window), min_tokens, axis=-1)
    level: Float64Array = runs.min(axis=-1).max(axis=-1)
    return level
