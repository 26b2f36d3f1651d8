"""The traffic of a server, from its metrics: samples of the counters, and the differences between two samples."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from traitwatch_dashboards.errors import DashboardError

_RESPONSES = "traitwatch_responses_total"
_OVER = "traitwatch_responses_over_threshold_total"
_SUM = "traitwatch_response_z_total"
_SPIKES = "traitwatch_spikes_total"


@dataclass(frozen=True)
class Counts:
    """Counters of one trait since the server started.

    Attributes:
        responses: scored responses.
        over: scored responses with a spike.
        spikes: spikes.
        sum_z: sum of the mean z of the responses.
    """

    responses: float = 0.0
    over: float = 0.0
    spikes: float = 0.0
    sum_z: float = 0.0

    def since(self, earlier: "Counts") -> "Counts":
        """Return the counts since an earlier sample. After a restart of the server, return all counts."""
        if self.responses < earlier.responses:
            return self
        return Counts(
            self.responses - earlier.responses,
            self.over - earlier.over,
            self.spikes - earlier.spikes,
            self.sum_z - earlier.sum_z,
        )

    @property
    def mean_z(self) -> float | None:
        """Mean z of the responses; None without any."""
        return self.sum_z / self.responses if self.responses else None

    @property
    def spike_rate(self) -> float | None:
        """Share of the responses with a spike; None without any."""
        return self.over / self.responses if self.responses else None


@dataclass(frozen=True)
class TrafficSample:
    """The metrics of a server at one time.

    Attributes:
        time: seconds since the epoch.
        traits: counts by trait.
        running: requests that the engine is answering.
        drift: `traitwatch_drift` by trait, standard errors.
    """

    time: float
    traits: dict[str, Counts] = field(default_factory=dict)
    running: float = 0.0
    drift: dict[str, float] = field(default_factory=dict)


def parse_sample(metrics: str, time: float) -> TrafficSample:
    """Return the sample in the text of `/metrics`. Counts are summed over engines.

    Args:
        metrics: text of `/metrics`, in Prometheus' text format.
        time: when the text was read, seconds since the epoch.

    Raises:
        DashboardError: the text has another format.
    """
    try:
        return _parsed(metrics, time)
    # The parser raises errors of many types, some of them without a message.
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        raise DashboardError(
            "the server's /metrics is not in Prometheus' text format. Check the address: it is that of a Traitwatch "
            "server, and no proxy in between changes its answers."
        ) from error


def _parsed(metrics: str, time: float) -> TrafficSample:
    counts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    drift: dict[str, float] = {}
    running = 0.0
    for family in text_string_to_metric_families(metrics):
        for line in family.samples:
            trait = line.labels.get("trait")
            if line.name == "vllm:num_requests_running":
                running += line.value
            elif trait is None:
                continue
            elif line.name == _SUM:
                counts[trait][line.name] += line.value if line.labels.get("sign") == "positive" else -line.value
            elif line.name in (_RESPONSES, _OVER, _SPIKES):
                counts[trait][line.name] += line.value
            elif line.name == "traitwatch_drift":
                drift[trait] = max(drift.get(trait, line.value), line.value, key=abs)
    traits = {trait: Counts(of[_RESPONSES], of[_OVER], of[_SPIKES], of[_SUM]) for trait, of in sorted(counts.items())}
    return TrafficSample(time, traits, running, drift)


@dataclass(frozen=True)
class Recent:
    """The mean z of the responses that ended between two samples.

    Attributes:
        time: of the later sample, seconds since the epoch.
        mean_z: by trait; None where no response ended.
    """

    time: float
    mean_z: dict[str, float | None]


def recent(samples: Sequence[TrafficSample], step: float = 30.0) -> list[Recent]:
    """Return the mean z over time, in steps of at least `step` seconds. Shorter steps would jump at each response."""
    found: list[Recent] = []
    earlier = samples[0] if samples else None
    for now in samples[1:]:
        if earlier is None or now.time - earlier.time < step:
            continue
        of = {name: counts.since(earlier.traits.get(name, Counts())).mean_z for name, counts in now.traits.items()}
        if any(value is not None for value in of.values()):
            found.append(Recent(now.time, of))
        earlier = now
    return found
