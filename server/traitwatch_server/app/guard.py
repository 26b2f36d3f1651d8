"""Asks for the API key in front of our routes and of everything that vLLM guards or we score.

vLLM has a guard of its own, which takes the root path off a path in another way than the router does. Under
`--root-path /`, it takes `/v1/traits` for `v1/traits` and lets everybody pass. This guard reads the path by which the
router finds the route. So no spelling of a path reaches a route past it.
"""

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from traitwatch.vllm_private.api_process import GUARDED_PREFIX
from traitwatch_server.app.keys import Keys
from traitwatch_server.responses.endpoints import shape_of
from traitwatch_server.responses.paths import route_path


class GuardMiddleware:
    """Answers 401 to a request without the API key. It stands outermost of our middleware."""

    def __init__(self, app: ASGIApp, keys: Keys):
        """Wrap an application.

        Args:
            app: the application.
            keys: the API keys of the server; without any, every request passes.
        """
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        guarded = self._keys and scope["type"] in ("http", "websocket") and _is_guarded(route_path(scope))
        if guarded and not self._keys.has(_bearer(scope)):
            # vLLM's own answer.
            await JSONResponse({"error": "Unauthorized"}, 401)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _is_guarded(path: str) -> bool:
    """Return whether a path needs the key: those that vLLM guards, and all whose answers carry scores."""
    return path.startswith(GUARDED_PREFIX) or shape_of(path) is not None


def _bearer(scope: Scope) -> str:
    """Return the bearer token of a request; empty without one, which is no key."""
    scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else ""
