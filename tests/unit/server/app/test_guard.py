"""No spelling of a path reaches a guarded route without the key, and none reaches a scored handler unscored.

The application is vLLM's own, with all its middleware and ours. Only the handlers of the routes are others: they tell
which route was reached.
"""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from starlette.responses import Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.support.asgi import monitor_of
from tests.support.serving import ADMIN_KEY
from tests.support.vllm_app import vllm_app
from traitwatch.vllm_private.api_process import GUARDED_PREFIX
from traitwatch_server.app.draining import Draining
from traitwatch_server.app.routes import Serving
from traitwatch_server.recording.spike_log import SpikeLog
from traitwatch_server.responses.endpoints import shape_of
from traitwatch_server.responses.scored_request import SCORED_REQUEST

PAGE = "https://page"
KEY, OTHER_KEY = "one-key", "another-key"
# The handlers of the tests answer with this status.
REACHED = 299
ROOT_PATHS = ("", "/", "//", "/api", "/api/", "api", "/v", "/v1", "/v1/", "/v1/t", "/v1/traits", "/v1/ch", "/i", "/inv")
METHODS = ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH", "websocket")
# Headers by which some servers take another path or method than that of the request.
OVERRIDES = (
    *("x-forwarded-prefix", "x-script-name", "x-original-url", "x-rewrite-url", "x-forwarded-uri"),
    *("x-http-method-override", "x-http-method", "x-method-override", "x-forwarded-path"),
)


@dataclass(frozen=True)
class Result:
    """The answer to a request.

    Attributes:
        status: its status.
        route: the path of the route whose handler was reached; empty if none was.
        scored: whether the handler's answer would be scored.
    """

    status: int
    route: str
    scored: bool


class Probed:
    """vLLM's application, whose handlers note that they were reached."""

    def __init__(self, *api_keys: str) -> None:
        arguments = ["--allowed-origins", f'["{PAGE}"]', *(["--api-key", *api_keys] if api_keys else [])]
        self.app: FastAPI = vllm_app(arguments=arguments, admin=True, admin_key=ADMIN_KEY)
        monitor = monitor_of(CollectorRegistry(), "tokens")
        (plugin,) = self.app.state.endpoint_plugins
        plugin._up = Serving(monitor, None, SpikeLog(None, dropped=lambda count: None), Draining(0))
        self.routes = [route for route in self.app.routes if isinstance(route, APIRoute)]
        # The mounted application of `/metrics` is a handler too.
        for route in (*self.routes, *(route for route in self.app.routes if isinstance(route, Mount))):
            route.app = self._handler(route.path)
        self._reached: list[tuple[str, bool]] = []

    def _handler(self, path: str) -> ASGIApp:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            self._reached.append((path, SCORED_REQUEST.get() is not None))
            await Response(status_code=REACHED)(scope, receive, send)

        return handler

    async def ask(self, method: str, path: str, root: str, headers: Mapping[str, str]) -> Result:
        """Send a request as uvicorn does: `path` is that of the request line."""
        self.app.root_path = root
        self._reached.clear()
        sent: list[Message] = []
        received: list[Message] = [{"type": "http.request", "body": b"{}", "more_body": False}]

        async def receive() -> Message:
            return received.pop(0) if received else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "server": ("127.0.0.1", 8000),
            "client": ("127.0.0.1", 1),
            "scheme": "http",
            "method": method,
            "root_path": "",
            "path": unquote(path.partition("?")[0]),
            "raw_path": path.partition("?")[0].encode(),
            "query_string": path.partition("?")[2].encode(),
            "headers": [(b"host", b"server"), *((name.encode(), text.encode()) for name, text in headers.items())],
        }
        if method == "websocket":
            del scope["method"]
            scope |= {"type": "websocket", "scheme": "ws", "subprotocols": []}
            scope["extensions"] = {"websocket.http.response": {}}
        await self.app(scope, receive, send)
        status = next((message["status"] for message in sent if "status" in message), 0)
        route, scored = self._reached[0] if self._reached else ("", False)
        return Result(status, route, scored)


@pytest.fixture(scope="module")
def probed() -> Probed:
    return Probed(KEY, OTHER_KEY)


def is_ours(route: str) -> bool:
    return route.startswith(("/v1/traits", "/v1/spikes"))


def is_guarded(route: str) -> bool:
    return route.startswith(GUARDED_PREFIX) or shape_of(route) is not None


PATHS = (
    *("/v1/traits", "/v1/spikes", "/v1/traits/deception", "/v1/traits/deception/report", "/v1/chat/completions"),
    *("/v1/completions", "/v1/chat/completions/batch", "/v1/responses", "/v1/responses/x", "/v1/messages"),
    *("/invocations", "/inference/v1/generate", "/v1/models", "/metrics", "/health", "/tokenize", "/v2/embed"),
)
MUTATIONS = (
    lambda path: path,
    lambda path: path + "/",
    lambda path: path.replace("/", "//", 1),
    lambda path: path.replace("/", "//"),
    lambda path: "".join(f"%{ord(character):02x}" for character in path[:3]) + path[3:],
    lambda path: quote(path, safe=""),
    lambda path: path.replace("/", "%2F"),
    lambda path: path.upper(),
    lambda path: "/x/.." + path,
    lambda path: "/." + path,
    lambda path: path + ";x=1",
    lambda path: path + "?key=one-key",
    lambda path: path.replace("/", "\\"),
    lambda path: path + "%00",
    lambda path: path + "%0a",
    lambda path: path + "/..",
    lambda path: path.lstrip("/"),
    lambda path: "http://server" + path,
)
roots = st.sampled_from(ROOT_PATHS) | st.text("/v1aitrs", max_size=6)
paths = st.builds(
    lambda before, path, first, second: second(before + first(path)),
    st.sampled_from(("", "/", *ROOT_PATHS)) | st.text("/v1aitrs%2F.", max_size=6),
    st.sampled_from(PATHS),
    st.sampled_from(MUTATIONS),
    st.sampled_from(MUTATIONS),
)
unkeyed = st.sampled_from(
    (
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {KEY}"},
        {"authorization": f"Bearer {KEY} "},
        {"authorization": f"Bearer {KEY},{OTHER_KEY}"},
        {"x-api-key": KEY},
    )
)
overrides = st.dictionaries(st.sampled_from(OVERRIDES), st.sampled_from(("/health", "/", "GET", "/api", *PATHS)))


@settings(max_examples=600, deadline=None)
@given(method=st.sampled_from(METHODS), path=paths, root=roots, headers=unkeyed, more=overrides)
@example(method="DELETE", path="/v1/traits/deception", root="/", headers={}, more={})
@example(method="GET", path="/v1/spikes", root="/", headers={}, more={})
@example(method="POST", path="/v1/chat/completions", root="/", headers={}, more={})
@example(method="GET", path="/v1/traits", root="/v", headers={}, more={})
@example(method="GET", path="/v1/traits", root="/v1/", headers={}, more={})
@example(method="POST", path="/v1/chat/completions", root="/v1/ch", headers={}, more={})
@example(method="POST", path="/invocations", root="", headers={}, more={})
@example(method="GET", path="/api/v1/traits", root="/api", headers={}, more={})
async def test_no_path_reaches_a_guarded_route_without_the_key(
    method: str, path: str, root: str, headers: dict[str, str], more: dict[str, str], probed: Probed
) -> None:
    result = await probed.ask(method, path, root, {**headers, **more})
    assert not is_guarded(result.route), f"{method} {path} reached {result.route} under root path {root!r}"
    if result.route:
        assert result.status == REACHED


@settings(max_examples=600, deadline=None)
@given(path=paths, root=roots, key=st.sampled_from((KEY, OTHER_KEY)), more=overrides)
@example(path="/v1/chat/completions", root="/", key=KEY, more={})
@example(path="//v1/chat/completions", root="/", key=KEY, more={})
@example(path="/v1/chat/completions", root="/v1/ch", key=KEY, more={})
@example(path="/api/v1/messages", root="/api", key=OTHER_KEY, more={})
async def test_every_path_to_a_scored_handler_is_scored(
    path: str, root: str, key: str, more: dict[str, str], probed: Probed
) -> None:
    result = await probed.ask("POST", path, root, {"authorization": f"Bearer {key}", **more})
    assert result.scored == (shape_of(result.route) is not None)


@pytest.mark.parametrize("root", ["", "/", "/v1/", "/inv", "/api"])
async def test_no_spelling_of_a_path_is_a_way_around(root: str, probed: Probed) -> None:
    """All spellings of all paths. The router takes a path with a line feed at its end for the path without it."""
    reached = set()
    for mutate, before in itertools.product(MUTATIONS, {"", root.rstrip("/")}):
        for path in (before + mutate(path) for path in PATHS):
            for method in ("GET", "POST", "DELETE"):
                assert not is_guarded((await probed.ask(method, path, root, {})).route), (method, path)
            result = await probed.ask("POST", path, root, {"authorization": f"Bearer {KEY}"})
            assert result.scored == (shape_of(result.route) is not None), path
            reached.add((result.route, path))
    assert {("/invocations", "/invocations%0a"), ("/v1/messages", "/v1/messages")} <= reached


@pytest.mark.parametrize("root", ["", "/", "//", "/api", "api", "/v", "/v1/", "/v1/t", "/v1/ch", "/inv", "/i"])
async def test_our_routes_ask_for_the_key_under_every_root_path(root: str, probed: Probed) -> None:
    """The router finds them at the same path under all these root paths."""
    filled = [(route, re.sub(r"{\w+}", "deception", route.path)) for route in probed.routes]
    asked = [(method, path) for route, path in filled if is_guarded(route.path) for method in route.methods]
    assert {("GET", "/v1/spikes"), ("DELETE", "/v1/traits/deception"), ("POST", "/invocations")} <= set(asked)
    for method, path in asked:
        assert (await probed.ask(method, path, root, {})).status == 401, (method, path)
        result = await probed.ask(method, path, root, {"authorization": f"bearer {KEY}"})
        assert result.status == REACHED, (method, path)


async def test_a_browser_may_ask_whether_it_may_send_the_key(probed: Probed) -> None:
    headers = {"origin": PAGE, "access-control-request-method": "POST"}
    assert (await probed.ask("OPTIONS", "/v1/chat/completions", "/", headers)).status == 200


@pytest.mark.parametrize("root", ["", "/", "/api"])
async def test_without_an_api_key_every_request_passes(root: str) -> None:
    assert (await Probed().ask("GET", "/v1/traits", root, {})).route == "/v1/traits"
