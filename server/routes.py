"""The routes beside vLLM's own, `/v1/traits` and `/v1/spikes`: behind vLLM's API key like everything under `/v1`."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.responses import HTMLResponse, JSONResponse, Response

from server.describing import describe, report_of
from server.errors import AdminError
from server.events import RECENT, SpikeLog
from server.monitor import Monitor
from server.registry import LoadRequest, Registry

# A report is one page that loads nothing and runs nothing; a file that somebody else put there may not either.
_REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none'"


@dataclass(frozen=True)
class Serving:
    """What the routes and the middleware of a running server need.

    Attributes:
        monitor: the traits and the open calls.
        registry: loads and unloads traits; None where the server was started without --traits-admin.
        spikes: the latest spikes.
    """

    monitor: Monitor
    registry: Registry | None
    spikes: SpikeLog


def add_routes(app: FastAPI, serving: Callable[[], Serving]) -> None:
    """Add the routes to `app`; `serving` is called a request, since the engine comes later than the app."""

    @app.get("/v1/traits")
    async def list_traits() -> dict[str, Any]:
        """List the loaded traits, their layers and their calibration."""
        return {"object": "list", "data": describe(serving().monitor.traits.all)}

    @app.get("/v1/spikes")
    async def list_spikes(limit: Annotated[int, Query(ge=1, le=RECENT)] = 50) -> dict[str, Any]:
        """List the latest spikes of this API process, newest first; texts only where the server logs them."""
        return {"object": "list", "data": serving().spikes.recent(limit)}

    @app.get("/v1/traits/{name}/report", response_model=None)
    async def show_report(name: str) -> Response:
        """Return the report of a trait's vector, one HTML page."""
        trait = serving().monitor.traits.traits.get(name)
        if trait is None:
            return _error(AdminError(404, f"no trait {name!r} is loaded here."))
        try:
            page = await asyncio.to_thread(report_of(trait).read_bytes)
        except OSError:
            return _error(AdminError(404, f"{name!r} has no report beside its vector; `traitwatch report` writes one."))
        return HTMLResponse(page, headers={"Content-Security-Policy": _REPORT_POLICY})

    @app.post("/v1/traits/{name}", response_model=None)
    async def load_trait(name: str, request: LoadRequest | None = None) -> dict[str, Any] | JSONResponse:
        """Load a persona vector as a trait, or replace the one of that name."""
        try:
            trait = await _registry(serving()).load(name, request or LoadRequest())
        except AdminError as error:
            return _error(error)
        return next(told for told in describe(serving().monitor.traits.all) if told["id"] == trait.name)

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
