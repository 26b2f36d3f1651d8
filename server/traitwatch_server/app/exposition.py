"""Answers `GET /metrics`: vLLM's own metrics and ours, up to date with the scores of this process, with exemplars.

vLLM answers in Prometheus's text format alone, which has no exemplars. Prometheus asks for OpenMetrics. Such a scraper
gets OpenMetrics from prometheus_client here, from the registry that vLLM itself uses.

To render the metrics takes milliseconds for every few traits, and there are routers that ask twenty times a second. So
a format is rendered at most once in `FRESH_SECONDS`, in a thread, however many clients ask: all of them get that text.
Only a client that sends `Cache-Control: no-cache` has it rendered anew.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.openmetrics.exposition import ALLOWUTF8, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from traitwatch.vllm_private.api_process import metrics_registry
from traitwatch_server.responses.paths import route_path

_MEDIA_TYPE = "application/openmetrics-text"
_VERSION = "1.0.0"
# How old the metrics may be that a scraper gets.
FRESH_SECONDS = 0.25


class MetricsMiddleware:
    """Answers `GET /metrics`."""

    def __init__(self, app: ASGIApp, flush: Callable[[], None]):
        """Wrap an application.

        Args:
            app: the application.
            flush: adds to the metrics what was scored since its last call. Called before each rendering.
        """
        self._app = app
        self._flush = flush
        self._registry: CollectorRegistry | None = None
        self._text = _Shared(self._vllms_text)
        self._openmetrics = _Shared(self._our_openmetrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        # vLLM answers under every path that begins so.
        metrics = scope["type"] == "http" and route_path(scope).startswith("/metrics")
        if not metrics or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        wants_openmetrics = _MEDIA_TYPE in headers.get("accept", "")
        if not wants_openmetrics and scope.get("query_string"):
            # A client may ask for some names only (`name[]`): nobody else shares that.
            self._flush()
            await self._app(scope, receive, send)
            return
        shared = self._openmetrics if wants_openmetrics else self._text
        for message in await shared.answer(scope, latest="no-cache" in headers.get("cache-control", "")):
            # The middleware around this one adds headers to the list that it gets.
            await send({**message, "headers": list(message["headers"])} if "headers" in message else message)

    async def _vllms_text(self, scope: Scope) -> list[Message]:
        self._flush()
        messages: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def keep(message: Message) -> None:
            messages.append(message)

        # vLLM renders in a thread too. The text must suit all clients: it is neither compressed nor of a later format.
        asked = {"method": "GET", "headers": [(b"accept", b"text/plain")]}
        await self._app({**scope, **asked}, receive, keep)
        return messages

    async def _our_openmetrics(self, scope: Scope) -> list[Message]:
        self._flush()
        if self._registry is None:
            self._registry = metrics_registry()
        # Of prometheus_client 0.26's ways to write names, this one alone leaves the colon in vLLM's names.
        body = await asyncio.to_thread(generate_latest, _Conformant(self._registry), ALLOWUTF8, _VERSION)
        response = Response(body, media_type=f"{_MEDIA_TYPE}; version={_VERSION}; charset=utf-8")
        return [
            {"type": "http.response.start", "status": 200, "headers": response.raw_headers},
            {"type": "http.response.body", "body": body, "more_body": False},
        ]


@dataclass
class _Shared:
    """An answer that many clients share.

    Attributes:
        make: makes the answer, as the messages of a response.
    """

    make: Callable[[Scope], Awaitable[list[Message]]]
    _made: list[Message] | None = None
    _until: float = 0.0
    _making: asyncio.Task[list[Message]] | None = None

    async def answer(self, scope: Scope, *, latest: bool) -> list[Message]:
        """Return the answer that was made in the last `FRESH_SECONDS`, or that is being made, or a new one.

        Args:
            scope: the request.
            latest: whether the answer must be made after the request has come.
        """
        loop = asyncio.get_running_loop()
        if latest:
            if self._making is not None:
                await asyncio.wait([self._making])
            self._made = None
        if self._made is not None and loop.time() < self._until:
            return self._made
        if self._making is None:
            self._making = loop.create_task(self._make(scope, loop))
        # A client that leaves takes nothing from the others.
        return await asyncio.shield(self._making)

    async def _make(self, scope: Scope, loop: asyncio.AbstractEventLoop) -> list[Message]:
        try:
            asked = loop.time()
            made = await self.make(scope)
            if made and made[0].get("status") == 200:
                self._made, self._until = made, asked + FRESH_SECONDS
            return made
        finally:
            self._making = None


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
