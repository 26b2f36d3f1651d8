"""Our routes, `/v1/traits` and `/v1/spikes`. The API key protects them all, and the admin key those of an operator."""

import asyncio
import time
import weakref
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import TypeAdapter

from traitwatch.vllm_private.api_process import ErrorResponse
from traitwatch_server.app.admin import operator_only
from traitwatch_server.app.draining import Draining
from traitwatch_server.app.keys import Keys
from traitwatch_server.app.registry import LoadRequest, Registry
from traitwatch_server.errors import AdminError
from traitwatch_server.monitor import Monitor
from traitwatch_server.recording.spike_log import RECENT, SpikeLog
from traitwatch_server.responses.refusals import refusal
from traitwatch_server.responses.schema import TraitDeleted, TraitInfo, TraitList, TraitVerification, Unauthorized
from traitwatch_server.traits import ServedTrait, TraitSet

# A report is one page that loads nothing and runs nothing. A file that somebody else has put there must not do so
# either.
_REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none'"

_WHY = {
    400: "The request cannot be honoured; the message says why.",
    401: "The server has an API key, and the request has not.",
    403: "The route is an operator's, and the request has not the admin key; or the route is off.",
    404: "No such trait is loaded, or it has no report.",
    409: "All columns of the layer are in use.",
}
# Decimals of a cosine.
_DECIMALS = 4
_LIST = TypeAdapter(TraitList)
# A report that somebody writes beside its vector is listed after so many seconds at the latest.
_REPORTS_SECONDS = 5.0


@dataclass(frozen=True)
class Serving:
    """The state of a running server that routes and middleware use.

    Attributes:
        monitor: the traits and the open calls.
        registry: loads and unloads traits; None without --traits-admin.
        spikes: the latest spikes.
        draining: the running requests.
    """

    monitor: Monitor
    registry: Registry | None
    spikes: SpikeLog
    draining: Draining


def add_routes(app: FastAPI, serving: Callable[[], Serving], *, admin: bool, admin_keys: Keys) -> None:
    """Add the routes to `app`.

    Args:
        app: the application.
        serving: returns the state; called for each request, since the engine starts after the app is built.
        admin: whether the schema shows the routes that load and unload traits; without it they answer 403.
        admin_keys: the admin key. Without one, the routes of an operator answer 403, and the schema does not show them.
    """
    operator = [Depends(operator_only(admin_keys))]

    @app.exception_handler(AdminError)
    async def refuse(_: Request, error: AdminError) -> JSONResponse:
        return refusal(error.status, str(error))

    listing = Listing()

    @app.get("/v1/traits", response_model=TraitList, responses=_errors(401))
    async def list_traits() -> Response:
        """List the loaded traits, their layers and their calibration."""
        monitor = serving().monitor
        return Response(await listing.body(monitor.traits, monitor.stale), media_type="application/json")

    @app.get(
        "/v1/spikes",
        response_model=None,
        responses=_errors(400, 401, 403),
        include_in_schema=bool(admin_keys),
        dependencies=operator,
    )
    async def list_spikes(
        limit: Annotated[int, Query(ge=1, le=RECENT, description="how many at most")] = 50,
    ) -> dict[str, Any]:
        """List the latest spikes of this API process, newest first; texts only where the server logs them."""
        return {"object": "list", "data": serving().spikes.recent(limit)}

    @app.get("/v1/traits/{name}/report", response_model=None, response_class=HTMLResponse, responses=_errors(401, 404))
    async def show_report(name: str) -> Response:
        """Return the report of a trait's vector, one HTML page."""
        trait = serving().monitor.traits.traits.get(name)
        if trait is None:
            return refusal(404, f"no trait {name!r} is loaded here.")
        try:
            page = await asyncio.to_thread(report_of(trait).read_bytes)
        except OSError:
            return refusal(404, f"{name!r} has no report beside its vector; `traitwatch report` writes one.")
        return HTMLResponse(page, headers={"Content-Security-Policy": _REPORT_POLICY})

    @app.post(
        "/v1/traits/{name}",
        response_model=TraitInfo,
        responses=_errors(400, 401, 403, 409),
        include_in_schema=admin,
        dependencies=operator,
    )
    async def load_trait(name: str, request: LoadRequest | None = None) -> TraitInfo:
        """Load a persona vector as a trait, or replace the loaded trait of that name."""
        trait = await _registry(serving()).load(name, request or LoadRequest())
        return next(loaded for loaded in _described(serving().monitor) if loaded["id"] == trait.name)

    @app.delete(
        "/v1/traits/{name}",
        response_model=TraitDeleted,
        responses=_errors(401, 403, 404),
        include_in_schema=admin,
        dependencies=operator,
    )
    async def unload_trait(name: str) -> TraitDeleted:
        """Unload a trait; requests that are under way keep it."""
        await _registry(serving()).unload(name)
        return {"id": name, "object": "trait", "deleted": True}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the part of the schema about errors of these statuses."""
    return {
        status: {"model": Unauthorized if status == 401 else ErrorResponse, "description": _WHY[status]}
        for status in statuses
    }


def _registry(serving: Serving) -> Registry:
    if serving.registry is None:
        raise AdminError(403, "traits are not loaded or unloaded here; start the server with --traits-admin.")
    return serving.registry


def _described(monitor: Monitor) -> list[TraitInfo]:
    return describe(monitor.traits.all, stale=monitor.stale)


class Listing:
    """The list of the loaded traits as JSON. It is made when the traits or weights change, and to see new reports."""

    def __init__(self) -> None:
        # Not the set itself: a column of the tap is free only when no set that has the column is alive.
        self._made_of: tuple[weakref.ref[TraitSet], Collection[str]] | None = None
        self._made_at = 0.0
        self._body = b""
        self._one_at_a_time = asyncio.Lock()

    async def body(self, traits: TraitSet, stale: Collection[str] = frozenset()) -> bytes:
        """Return the list, made of these traits, and of which are stale, at most `_REPORTS_SECONDS` ago."""
        async with self._one_at_a_time:
            now, made_of = time.monotonic(), (weakref.ref(traits), stale)
            if self._made_of != made_of or now - self._made_at > _REPORTS_SECONDS:
                self._body = await asyncio.to_thread(_listed, traits, stale)
                self._made_of, self._made_at = made_of, now
            return self._body


def _listed(traits: TraitSet, stale: Collection[str]) -> bytes:
    listed: TraitList = {"object": "list", "data": describe(traits.all, stale=stale)}
    return _LIST.dump_json(_LIST.validate_python(listed), by_alias=True)


def describe(traits: Sequence[ServedTrait], *, stale: Collection[str] = ()) -> list[TraitInfo]:
    """Return the description of each of the loaded traits.

    Args:
        traits: the loaded traits.
        stale: the names of those whose vector is of other weights than the model's.
    """
    cosines = _cosines(traits)
    described: list[TraitInfo] = []
    for trait in traits:
        card = trait.vector.card
        baseline = trait.vector.calibration(trait.layer)
        described.append(
            {
                "id": trait.name,
                "object": "trait",
                "layer": trait.layer,
                "description": card.description if card else "",
                "sha256": trait.vector.sha256,
                "threshold": {"z": trait.threshold.z, "rate": trait.threshold.rate} if trait.threshold else None,
                "calibration": baseline,
                "calibration_date": card.calibration.date.isoformat() if card and card.calibration else None,
                "stale": trait.name in stale,
                "verification": _verification(trait),
                "cosines": cosines[trait.name],
                "report": f"/v1/traits/{trait.name}/report" if report_of(trait).is_file() else None,
            }
        )
    return described


def report_of(trait: ServedTrait) -> Path:
    """Return the path of the trait's report, beside its vector. The file need not exist."""
    return trait.vector.path.with_name(f"{trait.name}.html")


def _verification(trait: ServedTrait) -> TraitVerification | None:
    """Return how good the vector is on held-out answers; None where nobody has measured it."""
    card = trait.vector.card
    if card is None or card.verification is None:
        return None
    at_layer = next((known for known in card.verification.layers if known.layer == trait.layer), None)
    return {
        "auc": at_layer.auc if at_layer else None,
        "best_layer": card.best_layer,
        "better_than_null": card.verification.better_than_null,
        "verdict": card.verification.verdict,
    }


def _cosines(traits: Sequence[ServedTrait]) -> dict[str, dict[str, float]]:
    """Return for each trait its cosines with the other traits of the same layer."""
    directions = {trait.name: trait.vector.direction(trait.layer) for trait in traits}
    return {
        one.name: {
            other.name: round(float(np.dot(directions[one.name], directions[other.name])), _DECIMALS)
            for other in traits
            if other.layer == one.layer and other.name != one.name
        }
        for one in traits
    }
