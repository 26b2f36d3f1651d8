"""Counts scored responses in numpy, and passes the counts to Prometheus at intervals.

A response adds to the histograms of all its traits in one step, however many traits and tokens it has. Prometheus takes
the counts bucket by bucket, in Python. So `flush` runs only every `FLUSH_SECONDS`, and when a client asks this process
for its metrics.
"""

import time
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from prometheus_client import Histogram
from prometheus_client.samples import Exemplar

from traitwatch_server.ledger.scores import Scores
from traitwatch_server.metrics import MEAN_Z_BUCKETS, TOKEN_Z_BUCKETS, Metrics
from traitwatch_server.recording.drift import Drift
from traitwatch_server.traits import ServedTrait

FLUSH_SECONDS = 0.5


class Tally:
    """The counts of scored responses, by engine and trait."""

    def __init__(self, metrics: Metrics):
        """Start with no counts.

        Args:
            metrics: the server's metrics, to which the counts are passed.
        """
        self._metrics = metrics
        self._engine_of = {engine: i for i, engine in enumerate(metrics.engines)}
        self._slot_of: dict[str, int] = {}
        self._loaded: dict[str, ServedTrait] = {}
        self._dirty = False
        self._drift = [Drift(0) for _ in metrics.engines]
        self._make_arrays()

    def show(self, traits: Iterable[ServedTrait]) -> None:
        """Take the loaded traits. The drift of a trait that was unloaded or replaced begins anew."""
        self.flush()
        traits = list(traits)
        self._metrics.show(traits)
        for trait in traits:
            self._slot_of.setdefault(trait.name, len(self._slot_of))
        loaded = {trait.name: trait for trait in traits}
        gone = [name for name, trait in self._loaded.items() if loaded.get(name) is not trait]
        slots = np.array([self._slot_of[name] for name in gone], dtype=np.intp)
        for engine, drift in zip(self._metrics.engines, self._drift, strict=True):
            drift.grow(len(self._slot_of))
            drift.forget(slots)
            # The last values of the gauges are no longer true, and an alert on them would go on.
            for name in gone:
                metrics = self._metrics.of_trait[engine, name]
                for gauge in (metrics.ewma, metrics.drift, metrics.cusum_up, metrics.cusum_down):
                    gauge.set(0)
        self._loaded = loaded
        self._make_arrays()

    def add(self, engine: str, scores: Scores, call_id: str) -> None:
        """Count a response.

        Args:
            engine: one of the engines of the metrics.
            scores: its scores, for traits that `show` has had.
            call_id: the random id of the call, for exemplars: everybody may read them, so that no client may have
                chosen their text.
        """
        e = self._engine_of[engine]
        slots = np.array([self._slot_of[trait.name] for trait in scores.traits], dtype=np.intp)
        self._tokens[e, slots] += scores.token_z
        known = np.isfinite(scores.mean_z)
        slots, means = slots[known], scores.mean_z[known]
        buckets = np.searchsorted(MEAN_Z_BUCKETS, means)
        self._means[e, slots, buckets] += 1
        self._exemplar_ids[e, slots, buckets] = call_id
        self._exemplar_values[e, slots, buckets] = means
        self._signed[e, slots, 0] += np.maximum(means, 0.0)
        self._signed[e, slots, 1] += np.maximum(-means, 0.0)
        spikes = np.fromiter(map(len, scores.spikes), dtype=np.int64, count=len(scores.spikes))[known]
        self._spikes[e, slots] += spikes
        self._over[e, slots] += spikes > 0
        if spikes.any():
            self._spike_ids[e, slots[spikes > 0]] = call_id
        # A response that began with a vector that was replaced or unloaded since then says nothing of the drift.
        current = np.array([self._loaded.get(trait.name) is trait for trait in scores.traits], dtype=bool)[known]
        self._drift[e].update(slots[current], means[current], time.monotonic())
        self._dirty = True

    def flush(self) -> None:
        """Pass the counts since the last flush to Prometheus."""
        if not self._dirty:
            return
        self._dirty = False
        now = time.time()
        names = list(self._slot_of)
        for e, engine in enumerate(self._metrics.engines):
            drift = self._drift[e].drift()
            for slot in np.flatnonzero(self._means[e].any(axis=1) | self._tokens[e].any(axis=1)).tolist():
                metrics = self._metrics.of_trait[engine, names[slot]]
                _add(metrics.token_z, self._tokens[e, slot])
                ids, values = self._exemplar_ids[e, slot], self._exemplar_values[e, slot]
                _add(metrics.mean_z, self._means[e, slot], ids, values, now)
                metrics.responses.inc(int(self._means[e, slot].sum()))
                metrics.z_positive.inc(self._signed[e, slot, 0])
                metrics.z_negative.inc(self._signed[e, slot, 1])
                if self._spikes[e, slot]:
                    exemplar = {"call_id": self._spike_ids[e, slot]}
                    metrics.spikes.inc(int(self._spikes[e, slot]), exemplar)
                    metrics.over_threshold.inc(int(self._over[e, slot]), exemplar)
                metrics.ewma.set(self._drift[e].ewma[slot])
                metrics.drift.set(drift[slot])
                metrics.cusum_up.set(self._drift[e].cusum_up[slot])
                metrics.cusum_down.set(self._drift[e].cusum_down[slot])
        self._make_arrays()

    def _make_arrays(self) -> None:
        """Set all counts to 0. The axes are engine, trait and, in some arrays, bucket or sign."""
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


def _add(
    histogram: Histogram,
    counts: npt.NDArray[np.int64],
    exemplar_ids: npt.NDArray[np.object_] | None = None,
    exemplar_values: npt.NDArray[np.float64] | None = None,
    now: float = 0.0,
) -> None:
    """Add counts to the buckets of a histogram; prometheus_client itself takes only single values."""
    for i in np.flatnonzero(counts).tolist():
        bucket = histogram._buckets[i]
        bucket.inc(int(counts[i]))
        if exemplar_ids is not None and exemplar_values is not None:
            labels = {"call_id": exemplar_ids[i]}
            bucket.set_exemplar(Exemplar(labels, float(exemplar_values[i]), now))
