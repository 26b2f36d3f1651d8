"""Speaks to one Traitwatch server: what it serves and what it has seen. The API key never leaves this side."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx
import openai

from traitwatch_dashboards.errors import DashboardError
from traitwatch_dashboards.inspector.api.problems import TROUBLE, message_of, not_traitwatch, problem, problem_of_status
from traitwatch_dashboards.inspector.api.traits import Trait, trait_of

_TIMEOUT = httpx.Timeout(10.0, connect=5.0)
# A server with a long queue answers late; a person who waits can press Esc.
_ANSWER_TIMEOUT = 600.0


@dataclass(frozen=True)
class Served:
    """What a server serves.

    Attributes:
        models: names of its models and adapters, the base model first.
        traits: its traits.
        problem: why it serves nothing that can be shown; empty where all is well.
    """

    models: tuple[str, ...] = ()
    traits: tuple[Trait, ...] = ()
    problem: str = ""

    def model(self, chosen: str | None) -> str:
        """Return the model that is asked: what was chosen or typed, served or not; the first where that is empty."""
        return (chosen or "").strip() or next(iter(self.models), "")


class Server:
    """A server, by its address.

    Attributes:
        url: its address, without a slash at the end.
    """

    def __init__(self, url: str, api_key: str | None = None):
        self.url = url.rstrip("/").removesuffix("/v1")
        self._key = api_key

    @cached_property
    def openai(self) -> openai.AsyncOpenAI:
        """A client of its OpenAI API."""
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key=self._key or "none", max_retries=0, timeout=_ANSWER_TIMEOUT
        )

    @cached_property
    def _http(self) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return httpx.AsyncClient(headers=headers, timeout=_TIMEOUT)

    async def served(self) -> Served:
        """Return what it serves, or why that cannot be told."""
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
        except (ValueError, KeyError, TypeError) as error:
            raise DashboardError(not_traitwatch(self.url)) from error
        return tuple(map(trait_of, listed))

    async def json(self, path: str, body: dict[str, Any] | None = None, **query: str | int) -> Any:
        """GET a path, or POST a body to it, and return the JSON that comes back.

        Raises:
            DashboardError: the response is an error, or no JSON.
            httpx.HTTPError: there is no response.
        """
        response = await self._send(path, body, query)
        try:
            return response.json()
        except ValueError as error:
            raise DashboardError(f"{self.url}{path} answers with something that is not JSON.") from error

    async def text(self, path: str) -> str:
        """GET a path and return the text; raises as `json` does."""
        return (await self._send(path, None, {})).text

    async def _send(self, path: str, body: dict[str, Any] | None, query: dict[str, str | int]) -> httpx.Response:
        if body is None:
            response = await self._http.get(f"{self.url}{path}", params=query)
        else:
            response = await self._http.post(f"{self.url}{path}", json=body, timeout=_ANSWER_TIMEOUT)
        self._check(response)
        return response

    def _check(self, response: httpx.Response) -> None:
        """Raise `DashboardError` for a response that is an error."""
        if response.is_success:
            return
        raise DashboardError(problem_of_status(response.status_code, message_of(response.text), self.url))
