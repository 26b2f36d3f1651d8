"""Talks to one Traitwatch server over HTTP. The keys stay in this process; the browser never gets them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx
import openai

from traitwatch.headers import ADMIN_HEADER
from traitwatch.network import client_options
from traitwatch_dashboards.errors import DashboardError
from traitwatch_dashboards.inspector.api.problems import (
    TROUBLE,
    message_of,
    no_spikes,
    not_traitwatch,
    problem,
    problem_of_status,
)
from traitwatch_dashboards.inspector.api.traits import Trait, trait_of

_TIMEOUT = httpx.Timeout(10.0, connect=5.0)
# A server with a long queue answers late. A visitor who does not want to wait presses Esc.
_ANSWER_TIMEOUT = 600.0


@dataclass(frozen=True)
class Served:
    """The models and traits of a server, or its problem.

    Attributes:
        models: names of the models and adapters, the base model first.
        traits: the loaded traits.
        problem: why the server cannot be used; empty where it can.
    """

    models: tuple[str, ...] = ()
    traits: tuple[Trait, ...] = ()
    problem: str = ""

    def model(self, chosen: str | None) -> str:
        """Return the model to ask: the chosen or typed name, served or not; the first model where it is empty."""
        return (chosen or "").strip() or next(iter(self.models), "")


class Server:
    """The client of one server.

    Attributes:
        url: address of the server, without a slash at the end.
    """

    def __init__(self, url: str, api_key: str | None = None, admin_key: str | None = None):
        """Name the server; no request is sent yet.

        Args:
            url: address of the server, with or without `/v1`.
            api_key: API key of the server; None where it has none.
            admin_key: admin key of the server, for its latest spikes; None where the page shows no spikes.
        """
        self.url = url.rstrip("/").removesuffix("/v1")
        self._key = api_key
        self._admin_key = admin_key

    @cached_property
    def openai(self) -> openai.AsyncOpenAI:
        """The client of the server's OpenAI API."""
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key=self._key or "none",
            max_retries=0,
            timeout=_ANSWER_TIMEOUT,
            http_client=openai.DefaultAsyncHttpxClient(**client_options(self.url)),
        )

    @cached_property
    def _http(self) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return httpx.AsyncClient(headers=headers, timeout=_TIMEOUT, **client_options(self.url))

    async def served(self) -> Served:
        """Return the models and traits of the server, or its problem."""
        try:
            traits = await self._traits()
            models = tuple(str(model["id"]) for model in (await self.json("/v1/models"))["data"])
        except (*TROUBLE, KeyError, TypeError, ValueError) as error:
            return Served(problem=problem(error, self.url))
        return Served(models, traits)

    async def _traits(self) -> tuple[Trait, ...]:
        response = await self._http.get(f"{self.url}/v1/traits")
        if response.status_code in (404, 405):
            raise DashboardError(not_traitwatch(self.url))
        self._check(response)
        try:
            listed = response.json()["data"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DashboardError(not_traitwatch(self.url)) from error
        if not isinstance(listed, list):
            raise DashboardError(not_traitwatch(self.url))
        return tuple(map(trait_of, listed))

    async def json(self, path: str, body: dict[str, Any] | None = None, **query: str | int) -> Any:
        """GET a path, or POST a body to it, and return the JSON of the response.

        Raises:
            DashboardError: the response is an error, or is not JSON.
            httpx.HTTPError: the server sends no response.
        """
        response = await self._send(path, body, query)
        try:
            return response.json()
        except (ValueError, RecursionError) as error:
            raise DashboardError(f"{self.url}{path} answers with text that is not JSON.") from error

    async def text(self, path: str) -> str:
        """GET a path and return the text of the response; raise the same errors as `json`."""
        return (await self._send(path, None, {})).text

    async def spikes(self, limit: int) -> Any:
        """Return the JSON of the server's latest spikes; raise the same errors as `json`."""
        headers = {ADMIN_HEADER: self._admin_key} if self._admin_key else {}
        response = await self._http.get(f"{self.url}/v1/spikes", params={"limit": limit}, headers=headers)
        if response.status_code == 403:
            raise DashboardError(no_spikes(self.url, has_key=bool(self._admin_key)))
        self._check(response)
        return response.json()

    async def _send(self, path: str, body: dict[str, Any] | None, query: dict[str, str | int]) -> httpx.Response:
        if body is None:
            response = await self._http.get(f"{self.url}{path}", params=query)
        else:
            response = await self._http.post(f"{self.url}{path}", json=body, timeout=_ANSWER_TIMEOUT)
        self._check(response)
        return response

    def _check(self, response: httpx.Response) -> None:
        """Raise `DashboardError` where the response is an error."""
        if response.is_success:
            return
        raise DashboardError(problem_of_status(response.status_code, message_of(response.text), self.url))
