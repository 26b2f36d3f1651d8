"""Scored responses as OpenTelemetry events, `gen_ai.evaluation.result`, where the environment names a collector.

There is an event for each response and trait. The mean z is the score of the evaluation, and its label says whether
there was a spike. The attributes have the names of OpenTelemetry's conventions for generative AI; an attribute without
a name there begins with `traitwatch.`. No event holds a text. A thread makes the events
(`traitwatch_server.recording.background`), and `traitwatch_server.recording.otlp` sends them.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from traitwatch.spikes import Spike
from traitwatch_server.errors import ConfigError
from traitwatch_server.recording.background import Background
from traitwatch_server.recording.sink import Recorded
from traitwatch_server.traits import ServedTrait

if TYPE_CHECKING:
    from traitwatch_server.recording.otlp import Attribute, EventPipeline

EVENT = "gen_ai.evaluation.result"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
# Responses that may wait for the thread. The thread itself never waits for the collector.
_WAITING = 1024
# Spikes that an explanation lists.
_EXPLAINED = 3


def telemetry_from_environment(dropped: Callable[[int], object]) -> "EvaluationEvents | None":
    """Return a sink for the collector that the environment names; None where it names none, or turns events off.

    Args:
        dropped: called with a number of events that did not reach the collector, from any thread.

    Raises:
        ConfigError: OpenTelemetry is not installed, or does not take the value of a variable.
    """
    exporters = (_variable("OTEL_LOGS_EXPORTER") or "otlp").split(",")
    wanted = _variable("OTEL_SDK_DISABLED").lower() != "true" and "otlp" in map(str.strip, exporters)
    if not wanted or not any(map(_variable, _ENDPOINTS)):
        return None
    try:
        from traitwatch_server.recording.otlp import EventPipeline
    except ImportError as error:
        raise ConfigError(
            f"an OTLP endpoint is configured, but OpenTelemetry cannot be imported ({error}); install "
            "opentelemetry-sdk and opentelemetry-exporter-otlp, 1.39 or later, or set OTEL_LOGS_EXPORTER=none."
        ) from error
    return EvaluationEvents(EventPipeline(dropped), dropped)


class EvaluationEvents:
    """Sends the scores of responses to an OpenTelemetry collector; a `traitwatch_server.recording.sink.Sink`."""

    def __init__(self, pipeline: "EventPipeline", dropped: Callable[[int], object]):
        """Start the thread that makes the events.

        Args:
            pipeline: sends the events.
            dropped: called with a number of events that could not be made.
        """
        self._pipeline = pipeline
        self._background = Background[tuple[int, Recorded]](
            "OpenTelemetry events",
            take=self._take,
            end=pipeline.close,
            lost=lambda item: dropped(len(item[1].traits)),
            waiting=_WAITING,
        )

    def record(self, response: Recorded) -> None:
        """Send the scores of a response."""
        self._background.put((time.time_ns(), response))

    def close(self) -> None:
        """Send the events that still wait, within a few seconds."""
        self._background.close()

    def _take(self, item: tuple[int, Recorded]) -> None:
        ended, response = item
        for attributes in evaluations(response):
            spiked = bool(attributes["traitwatch.spikes"])
            self._pipeline.emit(EVENT, attributes, time_ns=ended, warning=spiked)


def evaluations(response: Recorded) -> list[dict[str, "Attribute"]]:
    """Return the attributes of a response's events: one event for each trait that has a mean z."""
    return [
        _evaluation(response, trait, mean_z, spikes)
        for trait, mean_z, spikes in zip(response.traits, response.mean_z.tolist(), response.spikes, strict=True)
        if not math.isnan(mean_z)
    ]


def _evaluation(
    response: Recorded, trait: ServedTrait, mean_z: float, spikes: Sequence[Spike]
) -> dict[str, "Attribute"]:
    attributes: dict[str, Attribute] = {
        "gen_ai.evaluation.name": trait.name,
        "gen_ai.evaluation.score.value": mean_z,
        "gen_ai.response.id": response.request_id,
        "gen_ai.request.model": response.model,
        "gen_ai.usage.output_tokens": len(response.token_ids),
        "traitwatch.call_id": response.call_id,
        "traitwatch.choice": response.index,
        "traitwatch.engine": response.engine,
        "traitwatch.layer": trait.layer,
        "traitwatch.spikes": len(spikes),
        "traitwatch.complete": response.complete,
    }
    if trait.threshold is not None:
        attributes["traitwatch.threshold_z"] = trait.threshold.z
    if spikes:
        attributes["gen_ai.evaluation.score.label"] = "spike"
        attributes["gen_ai.evaluation.explanation"] = _explanation(spikes)
    elif trait.threshold is not None:
        # Without a threshold there can be no spike, so "no_spike" would mean nothing.
        attributes["gen_ai.evaluation.score.label"] = "no_spike"
    return attributes


def _explanation(spikes: Sequence[Spike]) -> str:
    """Describe the spikes in words, e.g. `2 spikes: tokens 12 to 18 (peak z 5.90), tokens 30 to 33 (...)`."""
    listed = [f"tokens {spike.start} to {spike.end - 1} (peak z {spike.peak_z:.2f})" for spike in spikes[:_EXPLAINED]]
    more = f" and {len(spikes) - _EXPLAINED} more" if len(spikes) > _EXPLAINED else ""
    number = "1 spike" if len(spikes) == 1 else f"{len(spikes)} spikes"
    return f"{number}: {', '.join(listed)}{more}"


def _variable(name: str) -> str:
    return os.environ.get(name, "").strip()
