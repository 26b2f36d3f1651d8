"""The server's own Prometheus metrics: scored tokens and responses, unscored ones, and the levels of the traits.

A monitoring failure never fails a generation, so such a failure must show here. Labels are `model_name` and `engine`,
as in vLLM's own metrics, and `trait`. Every label set exists from start-up, so that `rate()` begins from a zero. The
registry is a parameter: each test makes one.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from traitwatch_server.traits import ServedTrait

# Reasons for which a token state, or a response, is not scored.
INCOMPLETE = ("rows_missing", "ledger_full", "no_traits", "not_scorable", "internal_error")
# Reasons for which rows are lost on their way to a response.
DROPPED = ("reader_behind", "worker_failed", "ledger_full", "misplaced")
# Upper bounds of z. A bucket without a bound follows.
TOKEN_Z_BUCKETS = (-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
MEAN_Z_BUCKETS = (-3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
LAG_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
# Label of the engine of a response without any row, where the process has several engines.
UNKNOWN_ENGINE = "unknown"

_Kind = TypeVar("_Kind", bound=MetricWrapperBase)


@dataclass(frozen=True)
class TraitMetrics:
    """The metrics of one trait on one engine. z is in standard deviations of the baseline.

    Attributes:
        token_z: z of the scored tokens.
        mean_z: mean z of the scored responses.
        z_positive: sum of the positive mean z.
        z_negative: sum of the negative mean z, without their sign.
        responses: scored responses that have a mean z.
        over_threshold: responses with a spike.
        spikes: spikes.
        ewma: fast mean of the responses' mean z.
        drift: fast minus slow mean, in standard errors.
        cusum_up: CUSUM of rises.
        cusum_down: CUSUM of falls.
    """

    token_z: Histogram
    mean_z: Histogram
    z_positive: Counter
    z_negative: Counter
    responses: Counter
    over_threshold: Counter
    spikes: Counter
    ewma: Gauge
    drift: Gauge
    cusum_up: Gauge
    cusum_down: Gauge


class Metrics:
    """Counters, gauges and histograms of one API process.

    A metric of an engine is a mapping from the engine's index, as in vLLM's metrics. A metric with a reason is a
    mapping from (engine, reason), or from the reason.

    Attributes:
        model_name: the value of the label `model_name`.
        engines: the values of the label `engine`.
        of_trait: the metrics of each trait, by (engine, trait). They are made when the trait is first loaded, and stay.
    """

    def __init__(
        self, registry: CollectorRegistry = REGISTRY, model_name: str = "model", engines: Sequence[str] = ("0",)
    ):
        self.engines = (*engines, UNKNOWN_ENGINE) if len(engines) > 1 else tuple(engines)
        self.of_trait: dict[tuple[str, str], TraitMetrics] = {}
        self._registry = registry
        self.model_name = model_name
        self._shown: tuple[ServedTrait, ...] = ()
        engines_and_reasons = list(product(self.engines, INCOMPLETE))

        scored = self._make(Counter, "tokens_scored", "Token states that were scored.", "engine")
        self.tokens_scored = self._by(scored, self.engines)
        unscored = self._make(
            Counter, "tokens_unscored", "Token states that were generated and not scored.", "engine", "reason"
        )
        self.tokens_unscored = self._by(unscored, engines_and_reasons)
        responses = self._make(Counter, "responses_scored", "Choices with every token state scored.", "engine")
        self.responses_scored = self._by(responses, self.engines)
        incomplete = self._make(
            Counter, "responses_incomplete", "Choices with a state that was not scored.", "engine", "reason"
        )
        self.responses_incomplete = self._by(incomplete, engines_and_reasons)
        last = self._make(
            Gauge, "last_score_timestamp_seconds", "When a response was last scored.", "engine", multiprocess_mode="max"
        )
        self.last_score = self._by(last, self.engines)
        lag = self._make(
            Histogram,
            "transport_lag_seconds",
            "From a pass's rows in the worker's host memory to the same rows in the API process.",
            "engine",
            buckets=LAG_BUCKETS,
        )
        self.transport_lag = self._by(lag, self.engines)
        received = self._make(
            Counter,
            "rows_received",
            "Rows that came from the workers; of each token state one from every pipeline stage with tapped layers.",
        )
        self.rows_received = self._of_model(received)
        dropped = self._make(Counter, "rows_dropped", "Rows that were lost on their way to a response.", "reason")
        self.rows_dropped = self._by(dropped, DROPPED)
        unclaimed = self._make(Counter, "rows_unclaimed", "Rows that came after their response was over.")
        self.rows_unclaimed = self._of_model(unclaimed)
        unreadable = self._make(Counter, "frames_unreadable", "Frames from a worker that could not be read.")
        self.frames_unreadable = self._of_model(unreadable)
        failed = self._make(
            Counter, "passes_failed", "Forward passes whose rows a worker could not read or send.", "engine"
        )
        self.passes_failed = self._by(failed, self.engines)
        calls = self._make(
            Gauge,
            "ledger_requests",
            "Calls of the engine whose projections are held.",
            multiprocess_mode="livesum",
        )
        self.ledger_requests = self._of_model(calls)
        held = self._make(Gauge, "ledger_bytes", "Bytes of calls and projections.", multiprocess_mode="livesum")
        self.ledger_bytes = self._of_model(held)
        lost = self._make(Counter, "events_dropped", "Events that could not be written or sent, by sink.", "sink")
        self.events_dropped = self._by(lost, ("log", "otlp"))
        self._make_trait_families()

    def engine_of(self, engine: int | None) -> str:
        """Return the label of an engine. Without an index: the label of the only engine, or `UNKNOWN_ENGINE`."""
        name = str(engine)
        return name if name in self.engines else self.engines[-1]

    def show(self, traits: Iterable[ServedTrait]) -> None:
        """Show which traits are loaded. A trait that is no longer loaded disappears, but its counters stay."""
        for trait in self._shown:
            self._forget(self._info, *self._described(trait))
            self._forget(self._stale, trait.name)
            if trait.threshold is not None:
                self._forget(self._threshold_z, trait.name)
                self._forget(self._threshold_rate, trait.name)
        self._shown = tuple(traits)
        for trait in self._shown:
            self._of_model(self._info, *self._described(trait)).set(1)
            self._of_model(self._stale, trait.name)
            if trait.threshold is not None:
                self._of_model(self._threshold_z, trait.name).set(trait.threshold.z)
                self._of_model(self._threshold_rate, trait.name).set(trait.threshold.rate)
            for engine in self.engines:
                if (engine, trait.name) not in self.of_trait:
                    self.of_trait[engine, trait.name] = self._trait_metrics(engine, trait.name)

    def show_stale(self, stale: Mapping[str, bool]) -> None:
        """Show of each loaded trait whether the weights were replaced since the trait was loaded."""
        for name, is_stale in stale.items():
            self._of_model(self._stale, name).set(is_stale)

    def _make_trait_families(self) -> None:
        of_trait = ("engine", "trait")
        self._token_z = self._make(Histogram, "token_z", "z of the scored tokens.", *of_trait, buckets=TOKEN_Z_BUCKETS)
        self._mean_z = self._make(
            Histogram, "response_mean_z", "Mean z of the scored responses.", *of_trait, buckets=MEAN_Z_BUCKETS
        )
        self._z = self._make(
            Counter, "response_z", "Sum of the responses' mean z without its sign, by sign.", *of_trait, "sign"
        )
        self._responses = self._make(Counter, "responses", "Responses that were scored for a trait.", *of_trait)
        self._over = self._make(Counter, "responses_over_threshold", "Responses with a spike.", *of_trait)
        self._spikes = self._make(Counter, "spikes", "Runs of tokens with a smoothed z above the threshold.", *of_trait)
        recent = {"multiprocess_mode": "livemostrecent"}
        self._ewma = self._make(
            Gauge, "z_ewma", "Exponentially weighted mean of the responses' mean z.", *of_trait, **recent
        )
        self._drift = self._make(
            Gauge, "drift", "Fast minus slow mean of the responses' mean z, in standard errors.", *of_trait, **recent
        )
        self._cusum = self._make(
            Gauge,
            "drift_cusum",
            "One-sided CUSUM of the responses' standardised mean z.",
            *of_trait,
            "direction",
            multiprocess_mode="livemax",
        )
        self._info = self._make(
            Gauge, "vector_info", "Loaded vectors.", "trait", "layer", "sha256", "calibration_date", **recent
        )
        self._stale = self._make(
            Gauge,
            "vector_stale",
            "Whether the model's weights were replaced since the vector was loaded.",
            "trait",
            multiprocess_mode="livemax",
        )
        self._threshold_z = self._make(Gauge, "threshold_z", "Smoothed z above which a run spikes.", "trait", **recent)
        self._threshold_rate = self._make(
            Gauge, "threshold_rate", "Share of neutral responses that may have a spike.", "trait", **recent
        )

    def _trait_metrics(self, engine: str, trait: str) -> TraitMetrics:
        labels = (engine, trait)
        return TraitMetrics(
            token_z=_without_sum(self._of_model(self._token_z, *labels)),
            mean_z=_without_sum(self._of_model(self._mean_z, *labels)),
            z_positive=self._of_model(self._z, *labels, "positive"),
            z_negative=self._of_model(self._z, *labels, "negative"),
            responses=self._of_model(self._responses, *labels),
            over_threshold=self._of_model(self._over, *labels),
            spikes=self._of_model(self._spikes, *labels),
            ewma=self._of_model(self._ewma, *labels),
            drift=self._of_model(self._drift, *labels),
            cusum_up=self._of_model(self._cusum, *labels, "up"),
            cusum_down=self._of_model(self._cusum, *labels, "down"),
        )

    def _make(self, kind: type[_Kind], name: str, text: str, *labels: str, **options: Any) -> _Kind:
        return kind(f"traitwatch_{name}", text, ["model_name", *labels], registry=self._registry, **options)

    def _of_model(self, family: _Kind, *labels: str) -> _Kind:
        return family.labels(self.model_name, *labels)

    def _by(self, family: _Kind, keys: Iterable[Any]) -> Mapping[Any, _Kind]:
        """Return the children of a family by their labels (a tuple, or one string)."""
        return {key: self._of_model(family, *((key,) if isinstance(key, str) else key)) for key in keys}

    def _forget(self, gauge: Gauge, *labels: str) -> None:
        # With several processes prometheus_client cannot remove a label set. The value is 0 then.
        self._of_model(gauge, *labels).set(0)
        gauge.remove(self.model_name, *labels)

    @staticmethod
    def _described(trait: ServedTrait) -> tuple[str, str, str, str]:
        """Return the labels of a trait's info: name, layer, SHA-256 of its vector, date of its calibration or ""."""
        card = trait.vector.card
        date = card.calibration.date.isoformat() if card is not None and card.calibration is not None else ""
        return trait.name, str(trait.layer), trait.vector.sha256, date


def _without_sum(histogram: Histogram) -> Histogram:
    """Make the sum of a histogram of signed values NaN, and return the histogram.

    A counter cannot go down, and readers would take a sum of 0 for a mean of 0. prometheus_client by itself leaves the
    sum out, but not where it joins several processes.
    """
    histogram._sum.set(math.nan)
    return histogram
