"""The server's own Prometheus metrics: what was scored, and what could not be.

A monitoring failure never fails a generation, so it has to show here. The registry is a parameter: tests make
their own.
"""

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge


class Metrics:
    """Counters and gauges of one API process."""

    def __init__(self, registry: CollectorRegistry = REGISTRY):
        self.responses_scored = Counter(
            "traitwatch_responses_scored", "Choices answered with every token state scored.", registry=registry
        )
        self.responses_incomplete = Counter(
            "traitwatch_responses_incomplete",
            "Choices answered with traits_complete false, by reason.",
            ["reason"],
            registry=registry,
        )
        for reason in ("rows_missing", "ledger_full", "not_scorable", "internal_error"):
            self.responses_incomplete.labels(reason)
        self.rows_received = Counter(
            "traitwatch_rows_received",
            "Rows that came from the workers; of each token state one from every pipeline stage with tapped layers.",
            registry=registry,
        )
        self.rows_dropped = Counter(
            "traitwatch_rows_dropped", "Rows that were lost on their way to a response.", ["reason"], registry=registry
        )
        for reason in ("reader_behind", "ledger_full"):
            self.rows_dropped.labels(reason)
        self.rows_unclaimed = Counter(
            "traitwatch_rows_unclaimed", "Rows that came after their response was over.", registry=registry
        )
        self.frames_unreadable = Counter(
            "traitwatch_frames_unreadable", "Frames from a worker that could not be read.", registry=registry
        )
        self.ledger_requests = Gauge(
            "traitwatch_ledger_requests",
            "Requests whose projections are held for their response.",
            multiprocess_mode="livesum",
            registry=registry,
        )
