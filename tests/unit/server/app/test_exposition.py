"""`GET /metrics` is up to date, and uses OpenMetrics for clients that ask for OpenMetrics."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from prometheus_client import REGISTRY, Counter, Histogram
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from traitwatch_server.app import exposition
from traitwatch_server.app.exposition import MetricsMiddleware

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


class Client:
    """Asks an application with the middleware. `flushes` counts the calls of `flush`."""

    def __init__(self) -> None:
        self.flushes = 0

        def answer(request: Request) -> PlainTextResponse:
            return PlainTextResponse(f"vllm, {self.flushes} flushes")

        app = Starlette(routes=[Route("/metrics", answer), Route("/v1/metrics", answer)])
        app.add_middleware(MetricsMiddleware, flush=self._flush)  # type: ignore[arg-type]
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")

    def _flush(self) -> None:
        self.flushes += 1

    async def get(self, path: str, accept: str = "text/plain", **headers: str) -> httpx.Response:
        return await self._client.get(path, headers={"accept": accept, **headers})


@pytest.fixture
def client() -> Client:
    return Client()


async def test_the_scores_are_flushed_before_vllm_answers(client: Client) -> None:
    assert (await client.get("/metrics")).text == "vllm, 1 flushes"


async def test_a_scraper_that_asks_for_openmetrics_gets_it(client: Client) -> None:
    response = await client.get("/metrics", OPENMETRICS)
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")
    assert client.flushes == 1


async def test_the_names_of_vllms_metrics_keep_their_colon(client: Client) -> None:
    counter = Counter("vllm:colon", "", registry=REGISTRY)
    try:
        assert "\nvllm:colon_total 0.0\n" in (await client.get("/metrics", OPENMETRICS)).text
    finally:
        REGISTRY.unregister(counter)


async def test_a_strict_parser_takes_histograms_of_signed_values(client: Client) -> None:
    histogram = Histogram("signed", "", buckets=(-1, 0, 1), registry=REGISTRY)
    histogram.observe(-3)
    try:
        text = (await client.get("/metrics", OPENMETRICS)).text
        (family,) = [family for family in text_string_to_metric_families(text) if family.name == "signed"]
        assert [sample.value for sample in family.samples if sample.name == "signed_bucket"] == [1, 1, 1, 1]
    finally:
        REGISTRY.unregister(histogram)


async def test_other_paths_are_vllms(client: Client) -> None:
    assert (await client.get("/v1/metrics", OPENMETRICS)).text == "vllm, 0 flushes"


@pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS])
async def test_scrapers_share_a_rendering(client: Client, accept: str) -> None:
    """However many ask, also at the same time, the metrics are rendered once in `FRESH_SECONDS`."""
    answers = await asyncio.gather(*(client.get("/metrics", accept) for _ in range(20)))
    answers.append(await client.get("/metrics", accept))
    assert client.flushes == 1
    assert len({answer.text for answer in answers}) == 1


@pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS])
async def test_metrics_are_never_older_than_promised(
    client: Client, accept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exposition, "FRESH_SECONDS", 0.0)
    for flushes in (1, 2):
        await client.get("/metrics", accept)
        assert client.flushes == flushes


@pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS])
async def test_a_client_may_ask_for_the_latest_metrics(client: Client, accept: str) -> None:
    await client.get("/metrics", accept)
    await client.get("/metrics", accept, **{"cache-control": "no-cache"})
    assert client.flushes == 2


async def test_the_two_formats_are_not_mixed(client: Client) -> None:
    assert (await client.get("/metrics")).text == "vllm, 1 flushes"
    assert (await client.get("/metrics", OPENMETRICS)).text.endswith("# EOF\n")
    assert (await client.get("/metrics")).text == "vllm, 1 flushes"


class TestSharing:
    """What one client asks for changes nothing for the next."""

    @pytest.fixture
    async def client(self, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
        monkeypatch.setattr(exposition, "FRESH_SECONDS", 60.0)
        metrics = Route("/metrics{rest:path}", lambda request: PlainTextResponse(_asked_for(request)))
        app = Starlette(routes=[metrics])
        app.add_middleware(MetricsMiddleware, flush=lambda: None)  # type: ignore[arg-type]

        async def with_id(scope: Scope, receive: Receive, send: Send) -> None:
            """Add a header, as vLLM's middleware for request ids does."""

            async def add(message: Message) -> None:
                if message["type"] == "http.response.start":
                    MutableHeaders(raw=message["headers"]).append("x-request-id", "1")
                await send(message)

            await app(scope, receive, add)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(with_id), base_url="http://server") as client:
            yield client

    async def test_a_client_that_asks_for_some_names_gets_them_alone(self, client: httpx.AsyncClient) -> None:
        assert (await client.get("/metrics?name[]=a")).text.endswith("names a")
        assert (await client.get("/metrics?name[]=b")).text.endswith("names b")
        assert (await client.get("/metrics")).text == "names "

    async def test_a_client_that_takes_no_compression_gets_none(self, client: httpx.AsyncClient) -> None:
        for encoding in ("gzip", "identity"):
            assert (await client.get("/metrics", headers={"accept-encoding": encoding})).text == "names "

    @pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS])
    async def test_headers_that_other_middleware_adds_do_not_pile_up(
        self, client: httpx.AsyncClient, accept: str
    ) -> None:
        for _ in range(3):
            response = await client.get("/metrics", headers={"accept": accept})
            assert response.headers.get_list("x-request-id") == ["1"]

    @pytest.mark.parametrize("path", ["/metrics/", "/metrics/x", "/metricsfoo"])
    async def test_every_path_under_which_vllm_has_its_metrics_shares_them(
        self, client: httpx.AsyncClient, path: str
    ) -> None:
        assert (await client.get("/metrics", headers={"accept-encoding": "identity"})).text == "names "
        assert (await client.get(path, headers={"accept-encoding": "gzip"})).text == "names "
        assert (await client.head(path)).status_code == 200


def _asked_for(request: Request) -> str:
    compressed = "compressed " if "gzip" in request.headers.get("accept-encoding", "") else ""
    return f"{compressed}names {request.query_params.get('name[]', '')}"
