"""Answers `GET /metrics`: vLLM's own metrics and ours, up to date with the scores of this process, with exemplars.

vLLM answers in Prometheus's text format alone, which has no exemplars. Prometheus asks for OpenMetrics. Such a scraper
gets OpenMetrics from prometheus_client here, from the registry that vLLM itself uses.
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
from traitwatch_server.responses.paths import route_path

_MEDIA_TYPE = "application/openmetrics-text"
_VERSION = "1.0.0"


class MetricsMiddleware:
    """Answers `GET /metrics`."""

    def __init__(self, app: ASGIApp, flush: Callable[[], None]):
        """Wrap an application.

        Args:
            app: the application.
            flush: adds to the metrics what was scored since its last call. Called for each request.
        """
        self._app = app
        self._flush = flush
        self._registry: CollectorRegistry | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http" or route_path(scope) != "/metrics":
            await self._app(scope, receive, send)
            return
        self._flush()
        if _MEDIA_TYPE not in Headers(scope=scope).get("accept", ""):
            await self._app(scope, receive, send)
            return
        if self._registry is None:
            self._registry = metrics_registry()
        # Of prometheus_client 0.26's ways to write names, this one alone leaves the colon in vLLM's names.
        body = generate_latest(_Conformant(self._registry), ALLOWUTF8, _VERSION)  # type: ignore[no-untyped-call]
        response = Response(body, media_type=f"{_MEDIA_TYPE}; version={_VERSION}; charset=utf-8")
        await response(scope, receive, send)


class _Conformant(Collector):
    """The metrics of another collector in the form of OpenMetrics: histograms of signed values lose sum and count."""

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
