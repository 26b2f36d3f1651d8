"""The routes of an operator ask for the admin key, in a header of its own beside the API key."""

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest

from tests.support.asgi import App, call, choices, monitor_of, settled
from tests.support.responses import decode, response
from tests.support.serving import ADMIN_KEY
from tests.support.vllm_app import vllm_app
from traitwatch.headers import ADMIN_HEADER
from traitwatch_server.app.draining import Draining
from traitwatch_server.app.routes import Serving
from traitwatch_server.recording.spike_log import SpikeLog

ROUTES = [("GET", "/v1/spikes"), ("POST", "/v1/traits/deception"), ("DELETE", "/v1/traits/deception")]
# All the texts of `tests.support.responses.response`.
TEXTS = ("four", "zero")


async def ask(app: FastAPI, method: str, path: str, **headers: str) -> httpx.Response:
    # Some routes of vLLM's fail without an engine.
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        return await client.request(method, path, headers=headers)


def message(refused: httpx.Response) -> str:
    assert refused.status_code == 403
    text: str = refused.json()["error"]["message"]
    assert refused.json()["error"]["code"] == 403
    return text


def server(admin_key: str | None, *, api_key: str | None = None) -> FastAPI:
    """Return vLLM's application with our routes, after a spike whose texts are logged."""
    app = vllm_app(arguments=["--api-key", api_key] if api_key else [], admin=True, admin_key=admin_key)
    spikes = SpikeLog(None, dropped=lambda count: None, decode=decode)
    spikes.record(response())
    spikes.close()
    assert all(text in str(spikes.recent()) for text in TEXTS)
    (plugin,) = app.state.endpoint_plugins
    plugin._up = Serving(monitor_of(CollectorRegistry(), "tokens"), None, spikes, Draining(0))
    return app


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_without_an_admin_key_the_routes_of_an_operator_are_off(method: str, path: str) -> None:
    app = server(None)
    for headers in ({}, {ADMIN_HEADER: ""}, {ADMIN_HEADER: "None"}, {ADMIN_HEADER: ADMIN_KEY}):
        assert "no admin key. Start it with TRAITWATCH_ADMIN_KEY" in message(await ask(app, method, path, **headers))


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_the_routes_of_an_operator_ask_for_the_admin_key(method: str, path: str) -> None:
    app = server(ADMIN_KEY, api_key="a-clients")
    client = {"authorization": "Bearer a-clients"}
    assert f"give the admin key in the header {ADMIN_HEADER}" in message(await ask(app, method, path, **client))
    for wrong in ("a-clients", ADMIN_KEY[:-1], f"{ADMIN_KEY}x", ADMIN_KEY.upper(), f"Bearer {ADMIN_KEY}"):
        refused = await ask(app, method, path, **client, **{ADMIN_HEADER: wrong})
        assert "is not this server's admin key" in message(refused)
        assert ADMIN_KEY not in refused.text
    taken = await ask(app, method, path, **client, **{ADMIN_HEADER.lower(): ADMIN_KEY})
    # This server has no registry: the route itself refuses what the guard has let pass.
    assert taken.status_code == 200 if method == "GET" else "--traits-admin" in message(taken)


async def test_the_admin_key_is_no_api_key() -> None:
    app = server(ADMIN_KEY, api_key="a-clients")
    for headers in ({ADMIN_HEADER: ADMIN_KEY}, {ADMIN_HEADER: ADMIN_KEY, "authorization": f"Bearer {ADMIN_KEY}"}):
        assert (await ask(app, "GET", "/v1/spikes", **headers)).status_code == 401


async def test_texts_leave_over_http_only_with_the_admin_key() -> None:
    """Every route that a client can GET is asked, in every way but with the admin key."""
    app = server(ADMIN_KEY)
    paths = [path for path, operations in app.openapi()["paths"].items() if "get" in operations and "{" not in path]
    assert {"/v1/traits", "/v1/spikes", "/metrics"} <= {*paths, "/metrics"}
    for path in (*paths, "/metrics", "/openapi.json"):
        for accept in ("*/*", "application/openmetrics-text"):
            answer = await ask(app, "GET", path, accept=accept)
            assert not any(f'"{text}' in answer.text for text in TEXTS), path
    shown = await ask(app, "GET", "/v1/spikes", **{ADMIN_HEADER: ADMIN_KEY})
    assert all(text in shown.text for text in TEXTS)
    assert shown.json()["data"][0]["text"] == decode(range(6))


async def test_the_metrics_carry_no_id_that_a_client_chose() -> None:
    """vLLM takes the id of a request from its header X-Request-Id, or from its body."""
    registry = CollectorRegistry()
    monitor = monitor_of(registry, "tokens")
    app = App(monitor, choices(0))
    await call(app, monitor, b"{}")
    await settled(monitor)
    assert app.engine.request_ids == ["cmpl-1-0"]
    exposed = generate_latest(registry).decode()
    assert '# {call_id="' in exposed
    assert "cmpl-1" not in exposed
