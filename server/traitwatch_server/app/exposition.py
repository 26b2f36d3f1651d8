"""`GET /metrics`: the same as vLLM's own, up to date with what this process has scored, and with exemplars.

vLLM answers in Prometheus's text format alone, which has no exemplars. A scraper that asks for OpenMetrics, as
Prometheus does, gets it from prometheus_client here, from the registry that vLLM itself uses.
"""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.openmetrics.exposition import ALLOWUTF8, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from traitwatch.vllm_private.api_process import metrics_registry
from traitwatch_server.responses.refusals import request_path

_MEDIA_TYPE = "application/openmetrics-text"
_VERSION = "1.0.0"


class MetricsMiddleware:
    """Answers `GET /metrics`.

    Args of the constructor:
        app: the application.
        flush: tells Prometheus's metrics what was scored since the last time; called a request.
    """

    def __init__(self, app: ASGIApp, flush: Callable[[], None]):
        self._app = app
        self._flush = flush
        self._registry: CollectorRegistry | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http" or request_path(scope) != "/metrics":
            await self._app(scope, receive, send)
            return
        self._flush()
        if _MEDIA_TYPE not in Headers(scope=scope).get("accept", ""):
            await self._app(scope, receive, send)
            return
        if self._registry is None:
            self._registry = metrics_registry()
        # Of its ways to write names, prometheus_client 0.26 has this one alone that leaves the colon in vLLM's.
        body = generate_latest(_Conformant(self._registry), ALLOWUTF8, _VERSION)  # type: ignore[no-untyped-call]
        response = Response(body, media_type=f"{_MEDIA_TYPE}; version={_VERSION}; charset=utf-8")
        await response(scope, receive, send)


class _Conformant(Collector):
    """What another collector has, as OpenMetrics wants it: a histogram of signed values has neither sum nor count."""

    def __init__(self, collector: Collector):
        self._collector = collector

    def collect(self) -> Iterator[Metric]:
        """Return the metrics."""
        for metric in self._collector.collect():
            if metric.type == "histogram" and any(_is_negative(sample) for sample in metric.samples):
                metric.samples = [s for s in metric.samples if not s.name.endswith(("_sum", "_count"))]
            yield metric


def _is_negative(sample: Sample) -> bool:
    return float(sample.labels.get("le", "0")) < 0
