"""The scores of an answer, made from the projections of its token states.

A response of n tokens has n - 1 token states: the last token is sampled and never fed back. So the last token has no
projection. `score` computes every number for a block of traits at once, in numpy, block after block. The numbers of a
trait come from its own projections alone, one after the other in memory, so they do not depend on the blocks.
`traitwatch_server.responses` makes the JSON fields.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.signal  # type: ignore[import-untyped]  # noqa: F401  (otherwise `smooth` would import it in the first response)

from traitwatch.spikes import Spike, smooth, spike_runs
from traitwatch.vectors import Float32Array, Float64Array
from traitwatch_server.ledger.choice_rows import ChoiceRows
from traitwatch_server.metrics import TOKEN_Z_BUCKETS
from traitwatch_server.pacing import STEP_NUMBERS, Steps
from traitwatch_server.traits import ServedTrait, TraitSet

# Spikes that one step makes.
_STEP_SPIKES = 2_000


@dataclass(frozen=True)
class States:
    """The token states of an answer.

    Attributes:
        count: its tokens, the last one too, which has no state.
        read: returns the projections of tokens `start` to `end`: `[end - start, columns]`, float32, NaN where there is
            no state.
    """

    count: int
    read: Callable[[int, int], Float32Array]


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of one answer.

    Attributes:
        traits: the traits.
        prompt_last: `[num_traits]`, float32, at the prompt's last position, units of the hidden state; NaN where it is
            missing.
        mean: `[num_traits]`, float64, mean over the token states, units of the hidden state; NaN without one.
        mean_z: `[num_traits]`, the same in standard deviations of the baseline; NaN without calibration.
        max_z: `[num_traits]`, z of the highest token; NaN without a state or calibration.
        spikes: of each trait its spikes; none for a trait without threshold.
        token_z: `[num_traits, len(TOKEN_Z_BUCKETS) + 1]`, how many tokens have a z in each bucket.
        missing: tokens, the last one aside, that lack the state of a trait.
    """

    traits: tuple[ServedTrait, ...]
    prompt_last: Float32Array
    mean: Float64Array
    mean_z: Float64Array
    max_z: Float64Array
    spikes: tuple[tuple[Spike, ...], ...]
    token_z: npt.NDArray[np.int64]
    missing: int


def states_of(rows: ChoiceRows, start: int, end: int) -> Float32Array:
    """Return the projections of tokens `start` to `end` of a choice, the last one of all being NaN; see `States`."""
    with_state = min(end, len(rows.tokens) - 1)
    if end == with_state:
        return rows.states(start, end)
    last = np.full((1, rows.columns.total), np.nan, dtype=np.float32)
    return np.concatenate([rows.states(start, with_state), last]) if start < with_state else last


def score(loaded: TraitSet, states: States, prompt_last: Float32Array) -> Steps[Scores]:
    """Compute the scores of an answer.

    Args:
        loaded: the traits.
        states: the token states.
        prompt_last: `[columns]`, float32, the projections at the prompt's last position.
    """
    num_traits = len(loaded.all)
    mean, max_z = np.full(num_traits, np.nan), np.full(num_traits, np.nan)
    token_z = np.zeros((num_traits, len(TOKEN_Z_BUCKETS) + 1), dtype=np.int64)
    gone = np.zeros(states.count, dtype=bool)
    spikes: list[tuple[Spike, ...]] = []
    baseline = np.array([trait.baseline for trait in loaded.all], dtype=np.float64).reshape(-1, 2)
    for block in _slices(num_traits, states.count):
        projections = yield from _projections(states, loaded.places[block])
        gone |= np.isnan(projections).any(axis=0)
        mean[block] = _over_states(np.nanmean, projections.astype(np.float64))
        yield
        z = (projections - baseline[block, :1]) / baseline[block, 1:]
        max_z[block] = _over_states(np.nanmax, z)
        yield
        token_z[block] = yield from _histograms(z, TOKEN_Z_BUCKETS)
        spikes += yield from _spikes(loaded.all[block], z)
    return Scores(
        traits=loaded.all,
        prompt_last=prompt_last[loaded.places],
        mean=mean,
        mean_z=(mean - baseline[:, 0]) / baseline[:, 1],
        max_z=max_z,
        spikes=tuple(spikes),
        token_z=token_z,
        missing=int(gone[:-1].sum()),
    )


def _slices(total: int, numbers_each: int) -> Iterator[slice]:
    """Yield slices of `total` things, of at least one each, so that a slice has at most `STEP_NUMBERS` numbers."""
    size = max(1, STEP_NUMBERS // max(1, numbers_each))
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def _projections(states: States, places: npt.NDArray[np.intp]) -> Steps[Float32Array]:
    """Return the projections of some traits, each trait's in a row: `[num_traits, num_tokens]`, float32."""
    projections = np.empty((len(places), states.count), dtype=np.float32)
    for part in _slices(states.count, len(places)):
        projections[:, part] = states.read(part.start, part.stop)[:, places].T
        yield
    return projections


def _histograms(values: Float64Array, bounds: Sequence[float]) -> Steps[npt.NDArray[np.int64]]:
    """Return how many values of each row fall into each bucket: `[num_rows, len(bounds) + 1]`.

    Args:
        values: `[num_rows, num_values]`; NaN falls into none.
        bounds: upper bounds, inclusive as Prometheus has them, ascending.
    """
    num_rows, size = values.shape[0], len(bounds) + 1
    counts = np.zeros(num_rows * size, dtype=np.int64)
    first = size * np.arange(num_rows)[:, None]
    for part in _slices(values.shape[1], num_rows):
        places = np.searchsorted(bounds, values[:, part]) + first
        counts += np.bincount(places[~np.isnan(values[:, part])], minlength=counts.size)
        yield
    return counts.reshape(num_rows, size)


def _spikes(traits: Sequence[ServedTrait], z: Float64Array) -> Steps[list[tuple[Spike, ...]]]:
    """Return the spikes of some traits. `z`: `[num_traits, num_tokens]`."""
    found: list[tuple[Spike, ...]] = [()] * len(traits)
    possible = _may_spike(traits, z)
    yield
    for i in possible:
        threshold = traits[i].threshold
        assert threshold is not None
        starts, ends, peaks = spike_runs(z[i], threshold.z)
        yield
        spikes: list[Spike] = []
        for first in range(0, len(starts), _STEP_SPIKES):
            part = slice(first, first + _STEP_SPIKES)
            spikes += map(Spike, starts[part].tolist(), ends[part].tolist(), peaks[part].tolist())
            yield
        found[i] = tuple(spikes)
    return found


def _may_spike(traits: Sequence[ServedTrait], z: Float64Array) -> list[int]:
    """Return the traits that may have a spike: those whose smoothed z is above the threshold at some token.

    The last token has no state and is left out. A trait with another missing state is returned too, unless all of its
    states are missing: `spike_runs` decides.
    """
    thresholds = np.array([t.threshold.z if t.threshold is not None else np.inf for t in traits])
    states = z[:, :-1]
    missing = np.isnan(states)
    gaps = np.any(missing, axis=1)
    above = np.any(smooth(np.where(gaps[:, None], 0.0, states)) > thresholds[:, None], axis=1)
    possible = (above & ~gaps) | (gaps & ~np.all(missing, axis=1) & np.isfinite(thresholds))
    places: list[int] = np.flatnonzero(possible).tolist()
    return places


def _over_states(reduce: Any, values: Float64Array) -> Float64Array:
    """Reduce `[num_traits, num_tokens]` over the states that are there; NaN where there is none."""
    if not values.shape[1]:
        return np.full(values.shape[0], np.nan)
    with warnings.catch_warnings():
        # A response without a state, or a trait without calibration, has no mean: that is null, not a warning.
        warnings.simplefilter("ignore", RuntimeWarning)
        reduced: Float64Array = reduce(values, axis=1)
    return reduced
