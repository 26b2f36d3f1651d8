"""Counts scored responses in numpy, and tells Prometheus at intervals.

A response adds to its traits' histograms all at once, whatever their number and its length. Telling Prometheus goes
bucket by bucket in Python, so it happens a few times a second at most (`FLUSH_SECONDS`), and when this process is asked
for its metrics.
"""

import time
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from prometheus_client import Histogram
from prometheus_client.samples import Exemplar

from traitwatch_server.ledger.scores import Scores
from traitwatch_server.metrics import MEAN_Z_BUCKETS, TOKEN_Z_BUCKETS, Metrics
from traitwatch_server.recording.drift import Drift
from traitwatch_server.traits import ServedTrait

FLUSH_SECONDS = 0.5
# OpenMetrics allows 128 characters for the labels of an exemplar.
_EXEMPLAR_LENGTH = 100


class Tally:
    """What was scored, by engine and trait.

    Args of the constructor:
        metrics: what Prometheus is told through.
    """

    def __init__(self, metrics: Metrics):
        self._metrics = metrics
        self._engine_of = {engine: i for i, engine in enumerate(metrics.engines)}
        self._slot_of: dict[str, int] = {}
        self._shown: dict[str, ServedTrait] = {}
        self._dirty = False
        self._drift = [Drift(0) for _ in metrics.engines]
        self._make_arrays()

    def show(self, traits: Iterable[ServedTrait]) -> None:
        """Tell which traits are loaded. The baseline of one that has left, or was replaced, goes with it."""
        self.flush()
        traits = list(traits)
        self._metrics.show(traits)
        for trait in traits:
            self._slot_of.setdefault(trait.name, len(self._slot_of))
        shown = {trait.name: trait for trait in traits}
        gone = [name for name, trait in self._shown.items() if shown.get(name) is not trait]
        slots = np.array([self._slot_of[name] for name in gone], dtype=np.intp)
        for engine, drift in zip(self._metrics.engines, self._drift, strict=True):
            drift.grow(len(self._slot_of))
            drift.forget(slots)
            # What they tell of the traffic is no longer so; an alert would go on.
            for name in gone:
                told = self._metrics.of_trait[engine, name]
                for gauge in (told.ewma, told.drift, told.cusum_up, told.cusum_down):
                    gauge.set(0)
        self._shown = shown
        self._make_arrays()

    def add(self, engine: str, scores: Scores, request_id: str) -> None:
        """Count a response.

        Args:
            engine: one of the metrics' engines.
            scores: of traits that were shown.
            request_id: for exemplars.
        """
        e = self._engine_of[engine]
        slots = np.array([self._slot_of[trait.name] for trait in scores.traits], dtype=np.intp)
        self._tokens[e, slots] += _histograms(scores.z, TOKEN_Z_BUCKETS)
        known = np.isfinite(scores.mean_z)
        slots, means = slots[known], scores.mean_z[known]
        buckets = np.searchsorted(MEAN_Z_BUCKETS, means)
        self._means[e, slots, buckets] += 1
        self._exemplar_ids[e, slots, buckets] = request_id[:_EXEMPLAR_LENGTH]
        self._exemplar_values[e, slots, buckets] = means
        self._signed[e, slots, 0] += np.maximum(means, 0.0)
        self._signed[e, slots, 1] += np.maximum(-means, 0.0)
        spikes = np.fromiter(map(len, scores.spikes), dtype=np.int64, count=len(scores.spikes))[known]
        self._spikes[e, slots] += spikes
        self._over[e, slots] += spikes > 0
        if spikes.any():
            self._spike_ids[e, slots[spikes > 0]] = request_id[:_EXEMPLAR_LENGTH]
        self._drift[e].update(slots, means, time.monotonic())
        self._dirty = True

    def flush(self) -> None:
        """Tell Prometheus what was added since the last time."""
        if not self._dirty:
            return
        self._dirty = False
        now = time.time()
        names = list(self._slot_of)
        for e, engine in enumerate(self._metrics.engines):
            drift = self._drift[e].drift()
            for slot in np.flatnonzero(self._means[e].any(axis=1) | self._tokens[e].any(axis=1)).tolist():
                told = self._metrics.of_trait[engine, names[slot]]
                _add(told.token_z, self._tokens[e, slot])
                ids, values = self._exemplar_ids[e, slot], self._exemplar_values[e, slot]
                _add(told.mean_z, self._means[e, slot], ids, values, now)
                told.responses.inc(int(self._means[e, slot].sum()))
                told.z_positive.inc(self._signed[e, slot, 0])
                told.z_negative.inc(self._signed[e, slot, 1])
                if self._spikes[e, slot]:
                    exemplar = {"request_id": self._spike_ids[e, slot]}
                    told.spikes.inc(int(self._spikes[e, slot]), exemplar)
                    told.over_threshold.inc(int(self._over[e, slot]), exemplar)
                told.ewma.set(self._drift[e].ewma[slot])
                told.drift.set(drift[slot])
                told.cusum_up.set(self._drift[e].cusum_up[slot])
                told.cusum_down.set(self._drift[e].cusum_down[slot])
        self._make_arrays()

    def _make_arrays(self) -> None:
        """Start to count anew: arrays of engine, trait and, where there are any, bucket or sign."""
        size = (len(self._metrics.engines), len(self._slot_of))
        buckets = len(MEAN_Z_BUCKETS) + 1
        self._tokens = np.zeros((*size, len(TOKEN_Z_BUCKETS) + 1), dtype=np.int64)
        self._means = np.zeros((*size, buckets), dtype=np.int64)
        self._exemplar_ids = np.empty((*size, buckets), dtype=object)
        self._exemplar_values = np.zeros((*size, buckets))
        self._signed = np.zeros((*size, 2))
        self._spikes = np.zeros(size, dtype=np.int64)
        self._over = np.zeros(size, dtype=np.int64)
        self._spike_ids = np.empty(size, dtype=object)


def _histograms(values: npt.NDArray[np.float64], bounds: Sequence[float]) -> npt.NDArray[np.int64]:
    """Return how many values of each row fall into each bucket: `[num_rows, len(bounds) + 1]`.

    Args:
        values: `[num_rows, num_values]`; NaN falls into none.
        bounds: upper bounds, inclusive as Prometheus has them, ascending.
    """
    size = len(bounds) + 1
    places = np.searchsorted(bounds, values) + size * np.arange(values.shape[0])[:, None]
    counts: npt.NDArray[np.int64] = np.bincount(places[~np.isnan(values)], minlength=size * values.shape[0])
    return counts.reshape(values.shape[0], size)


def _add(
    histogram: Histogram,
    counts: npt.NDArray[np.int64],
    exemplar_ids: npt.NDArray[np.object_] | None = None,
    exemplar_values: npt.NDArray[np.float64] | None = None,
    now: float = 0.0,
) -> None:
    """Add to the buckets of a histogram, which prometheus_client only offers value by value."""
    for i in np.flatnonzero(counts).tolist():
        bucket = histogram._buckets[i]
        bucket.inc(int(counts[i]))
        if exemplar_ids is not None and exemplar_values is not None:
            labels = {"request_id": exemplar_ids[i]}
            bucket.set_exemplar(Exemplar(labels, float(exemplar_values[i]), now))
