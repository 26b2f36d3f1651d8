"""Sends events to an OpenTelemetry collector: all that touches OpenTelemetry's SDK is here, and imported late.

The SDK's batch processor collects the events and its exporter sends them, from a thread of theirs. What that exporter
says about a collector that does not answer, several lines each time it tries, is kept off the log: one report in ten
minutes has the reason and what was lost.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from importlib import import_module
from importlib.metadata import version

from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.resources import SERVICE_NAME, Resource

from traitwatch_server.errors import ConfigError
from traitwatch_server.recording.background import REPORT_INTERVAL, Seldom

logger = logging.getLogger(__name__)

Attribute = str | bool | int | float

_EXPORTERS = {
    "grpc": "opentelemetry.exporter.otlp.proto.grpc._log_exporter",
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http._log_exporter",
}
# Where those exporters log, which their traces and metrics do as well.
_EXPORTER_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
)
# The SDK's own default.
_WAITING = 2048
# Set in the thread that exports our events, while it does.
_EXPORTING: ContextVar["ReportingExporter | None"] = ContextVar("traitwatch_exporting", default=None)


class EventPipeline:
    """Events on their way to the collector that the environment names."""

    def __init__(self, dropped: Callable[[int], object]):
        """Set the SDK up from its environment variables; no connection is made yet.

        Args:
            dropped: called with a number of events that did not reach the collector, from any thread.

        Raises:
            ConfigError: a variable has a value that OpenTelemetry does not take.
        """
        try:
            self._waiting = int(os.environ.get("OTEL_BLRP_MAX_QUEUE_SIZE") or _WAITING)
            self._exporter = ReportingExporter(_exporter(), dropped)
            processor = BatchLogRecordProcessor(self._exporter, max_queue_size=self._waiting)
            self._provider = LoggerProvider(_resource(), shutdown_on_exit=False)
        except Exception as error:
            raise ConfigError(
                f"OpenTelemetry cannot be set up from the OTEL_* environment variables: {error}. Correct them, or set "
                "OTEL_LOGS_EXPORTER=none to send no events."
            ) from error
        self._provider.add_log_record_processor(processor)
        self._logger = self._provider.get_logger("traitwatch", version("traitwatch"))
        self._dropped = dropped
        self._emitted = 0

    def emit(self, name: str, attributes: Mapping[str, Attribute], *, time_ns: int, warning: bool) -> None:
        """Send an event; some 50 microseconds, and never a wait. From one thread.

        Args:
            name: the event's name.
            attributes: its attributes.
            time_ns: when it happened, nanoseconds of Unix time.
            warning: whether its severity is WARN, not INFO.
        """
        # The processor would drop the oldest event and say so in the log; the newest is dropped, and counted, instead.
        if self._emitted - self._exporter.taken >= self._waiting:
            self._dropped(1)
            return
        self._emitted += 1
        self._logger.emit(
            timestamp=time_ns,
            severity_number=SeverityNumber.WARN if warning else SeverityNumber.INFO,
            attributes=attributes,
            event_name=name,
        )

    def close(self) -> None:
        """Send what still waits; where the collector does not answer that takes as long as its time-out."""
        self._provider.shutdown()


class ReportingExporter(LogRecordExporter):
    """Another exporter, whose failures are counted and seldom reported.

    Attributes:
        taken: events that it was given and is done with, sent or not.
    """

    def __init__(self, exporter: LogRecordExporter, dropped: Callable[[int], object]):
        """Wrap an exporter.

        Args:
            exporter: the exporter.
            dropped: called with a number of events that it could not send.
        """
        self.taken = 0
        self._exporter = exporter
        self._dropped = dropped
        self._lost = 0
        self._reports = Seldom()
        # The first that the exporter would have logged of a batch: it has the cause, the last only that it gave up.
        self._reason = ""
        for name in _EXPORTER_LOGGERS:
            logging.getLogger(name).addFilter(_kept_off_the_log)

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Send a batch; never raises."""
        token = _EXPORTING.set(self)
        self._reason = ""
        try:
            result = self._exporter.export(batch)
        except Exception as error:  # noqa: BLE001 - reported below
            self.note(repr(error))
            result = LogRecordExportResult.FAILURE
        finally:
            _EXPORTING.reset(token)
            self.taken += len(batch)
        if result is not LogRecordExportResult.SUCCESS:
            self._fail(len(batch))
        return result

    def note(self, reason: str) -> None:
        """Remember what the exporter says of a failure."""
        self._reason = self._reason or reason

    def shutdown(self) -> None:
        """Give up what is being sent."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what the exporter holds."""
        return self._exporter.force_flush(timeout_millis)

    def _fail(self, count: int) -> None:
        self._lost += count
        self._dropped(count)
        if self._reports.due():
            logger.warning(
                "Evaluation events do not reach the OpenTelemetry collector (%d lost so far). Serving goes on, and so "
                "do the attempts; the next report comes in %d minutes at the earliest. %s",
                self._lost,
                REPORT_INTERVAL // 60,
                self._reason,
            )


def _kept_off_the_log(record: logging.LogRecord) -> bool:
    """Keep what an exporter says while it sends our events off the log, for its report."""
    exporter = _EXPORTING.get()
    if exporter is None:
        return True
    exporter.note(record.getMessage())
    return False


def _exporter() -> LogRecordExporter:
    """Return the exporter of the protocol that the environment names; gRPC is the default, as for vLLM's traces."""
    names = ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next(filter(None, (os.environ.get(name, "").strip() for name in names)), "grpc")
    if protocol not in _EXPORTERS:
        raise ValueError(f"the protocol {protocol!r} is not one of {', '.join(_EXPORTERS)}")
    exporter: LogRecordExporter = import_module(_EXPORTERS[protocol]).OTLPLogExporter()
    return exporter


def _resource() -> Resource:
    """Return what the environment says of this process, as the service `traitwatch` where it gives no name."""
    resource = Resource.create()
    # The SDK's own default is unknown_service, or unknown_service:python.
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return resource.merge(Resource({SERVICE_NAME: "traitwatch"}))
    return resource
