"""Sends events to an OpenTelemetry collector. Only this module imports OpenTelemetry's SDK; others import it late.

The SDK's batch processor collects the events and its exporter sends them, both in a thread of the SDK. When a collector
does not answer, the exporter logs several lines at each attempt. These lines are filtered out of the log. Instead, one
report in ten minutes has the reason and the number of lost events.
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
# The loggers of those exporters; the exporters of traces and metrics use the same ones.
_EXPORTER_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
)
# The SDK's own default.
_WAITING = 2048
# Set in the thread that exports our events, while it exports.
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
        """Send an event. This takes some 50 microseconds and never waits. Only one thread may call it.

        Args:
            name: the event's name.
            attributes: its attributes.
            time_ns: when it happened, nanoseconds of Unix time.
            warning: whether its severity is WARN, not INFO.
        """
        # The processor would drop the oldest event and log that. Instead the newest event is dropped and counted.
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
        """Send the events that still wait. Where the collector does not answer, this lasts until the time-out."""
        self._provider.shutdown()


class ReportingExporter(LogRecordExporter):
    """Wraps another exporter, counts its failures, and seldom reports them.

    Attributes:
        taken: events that it has sent or failed to send.
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
        # The first line that the exporter logs for a batch has the cause; the last line has only that it gave up.
        self._reason = ""
        for name in _EXPORTER_LOGGERS:
            logging.getLogger(name).addFilter(_keep_for_the_report)

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
        """Note the reason of a failure; the first reason of a batch is reported."""
        self._reason = self._reason or reason

    def shutdown(self) -> None:
        """End the exporter; a batch that it is sending is lost."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Have the exporter send the events that it holds."""
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


def _keep_for_the_report(record: logging.LogRecord) -> bool:
    """Note the lines of an exporter that sends our events for the report, and keep these lines out of the log."""
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
    """Return the resource of the environment; its service is `traitwatch` where the environment names none."""
    resource = Resource.create()
    # The SDK's own default is unknown_service, or unknown_service:python.
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return resource.merge(Resource({SERVICE_NAME: "traitwatch"}))
    return resource
