"""The routes beside vLLM's own: `/v1/traits`, behind vLLM's API key like everything under `/v1`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from server.errors import AdminError
from server.monitor import Monitor
from server.registry import LoadRequest, Registry
from server.scores import describe


@dataclass(frozen=True)
class Serving:
    """What the routes and the middleware of a running server need.

    Attributes:
        monitor: the traits and the open calls.
        registry: loads and unloads traits; None where the server was started without --traits-admin.
    """

    monitor: Monitor
    registry: Registry | None


def add_routes(app: FastAPI, serving: Callable[[], Serving]) -> None:
    """Add the routes to `app`; `serving` is called a request, since the engine comes later than the app."""

    @app.get("/v1/traits")
    async def list_traits() -> dict[str, Any]:
        """List the loaded traits, their layers and their calibration."""
        return {"object": "list", "data": describe(list(serving().monitor.traits.traits.values()))}

    @app.post("/v1/traits/{name}", response_model=None)
    async def load_trait(name: str, request: LoadRequest | None = None) -> dict[str, Any] | JSONResponse:
        """Load a persona vector as a trait, or replace the one of that name."""
        try:
            trait = await _registry(serving()).load(name, request or LoadRequest())
        except AdminError as error:
            return _error(error)
        return describe([trait])[0]

    @app.delete("/v1/traits/{name}", response_model=None)
    async def unload_trait(name: str) -> dict[str, Any] | JSONResponse:
        """Unload a trait; requests that are under way keep it."""
        try:
            await _registry(serving()).unload(name)
        except AdminError as error:
            return _error(error)
        return {"id": name, "object": "trait", "deleted": True}


def _registry(serving: Serving) -> Registry:
    if serving.registry is None:
        raise AdminError(403, "traits are not loaded or unloaded here; start the server with --traits-admin.")
    return serving.registry


def _error(error: AdminError) -> JSONResponse:
    """Return an error in OpenAI's shape."""
    kind = "NotFoundError" if error.status == 404 else "BadRequestError"
    content = {"message": str(error), "type": kind, "param": None, "code": error.status}
    return JSONResponse({"error": content}, status_code=error.status)
