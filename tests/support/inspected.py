"""A server for the inspector's unit tests: the real client, and an application in the place of a server."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import gradio as gr
import httpx
import httpx2
import openai
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from traitwatch_dashboards.inspector.api.client import Server
from traitwatch_dashboards.inspector.tabs.forms import SettingsForm
from traitwatch_dashboards.inspector.tabs.page import Fleet, Page

URL = "http://server:8000"
MEAN, STD = -10.0, 5.0
PATERNALISM = {
    "id": "paternalism",
    "layer": 20,
    "calibration": {"mean": MEAN, "std": STD},
    "threshold": {"z": 1.5},
    "report": "/v1/traits/paternalism/report",
}
METRICS = """
# TYPE traitwatch_responses counter
traitwatch_responses_total{{trait="paternalism"}} {responses}
# TYPE traitwatch_response_z counter
traitwatch_response_z_total{{trait="paternalism",sign="positive"}} {z}
"""


class Application:
    """Answers each chat with the same tokens, each of them at z = 1, and records the requests.

    Attributes:
        tokens: the answer to a chat.
        traits: the traits, as `GET /v1/traits` lists them.
        spikes: the latest spikes.
        admin_key: the key without which the spikes are refused; None to show them to everybody.
        metrics: the text of `/metrics`.
        refusal: the error message that refuses chats; empty if chats are answered.
        chats: the bodies of the chats so far.
        released: the event that an answer waits for. It is set at first.
    """

    def __init__(self, *tokens: str):
        self.tokens = tokens
        self.traits: list[dict[str, Any]] = [PATERNALISM]
        self.spikes: list[dict[str, Any]] = []
        self.admin_key: str | None = None
        self.metrics = METRICS.format(responses=0, z=0)
        self.refusal = ""
        self.chats: list[dict[str, Any]] = []
        self.released = asyncio.Event()
        self.released.set()

    def server(self, url: str = URL, admin_key: str | None = None) -> Server:
        """Return the inspector's client. Its requests reach this application without a network."""
        routes = [
            Route("/v1/models", self._models),
            Route("/v1/traits", self._traits),
            Route("/v1/spikes", self._spikes),
            Route("/metrics", self._metrics),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/completions", self._completion, methods=["POST"]),
            Route("/tokenize", self._tokenize, methods=["POST"]),
        ]
        app = Starlette(routes=routes)
        server = Server(url, admin_key=admin_key)
        server.__dict__["_http"] = httpx.AsyncClient(transport=httpx.ASGITransport(app))
        client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app))
        server.__dict__["openai"] = openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0, http_client=client
        )
        return server

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"data": [{"id": "base"}, {"id": "adapter"}]})

    async def _traits(self, _: Request) -> Response:
        await asyncio.sleep(0)  # as over a network, others get their turn
        return JSONResponse({"data": self.traits})

    async def _spikes(self, request: Request) -> Response:
        if self.admin_key is not None and request.headers.get("x-traitwatch-admin-key") != self.admin_key:
            return JSONResponse({"error": {"message": "refused"}}, 403)
        return JSONResponse({"data": self.spikes})

    async def _metrics(self, _: Request) -> Response:
        return PlainTextResponse(self.metrics)

    async def _chat(self, request: Request) -> Response:
        self.chats.append(await request.json())
        await self.released.wait()
        if self.refusal:
            return JSONResponse({"error": {"message": self.refusal}}, 400)
        events = [_event(i, token, last=i == len(self.tokens) - 1) for i, token in enumerate(self.tokens)]
        return PlainTextResponse("".join([*events, "data: [DONE]\n\n"]), media_type="text/event-stream")

    async def _tokenize(self, request: Request) -> Response:
        body = await request.json()
        text = body["prompt"] if "prompt" in body else "".join(message["content"] for message in body["messages"])
        return JSONResponse({"tokens": [ord(character) for character in text]})

    async def _completion(self, request: Request) -> Response:
        ids = (await request.json())["prompt"]
        scores = {trait["id"]: {"prompt_tokens": [MEAN + STD] * len(ids)} for trait in self.traits}
        choice: dict[str, Any] = {"text": "", "logprobs": {"tokens": [chr(i) for i in ids]}, "traits": scores}
        return JSONResponse({"choices": [choice]})


def _event(index: int, token: str, *, last: bool) -> str:
    scores: dict[str, Any] = {"start": index, "tokens": [None if last else MEAN + STD]}
    choice: dict[str, Any] = {
        "index": 0,
        "delta": {"content": token},
        "logprobs": {"content": [{"token": token, "logprob": -0.1, "bytes": None, "top_logprobs": []}]},
        "finish_reason": "stop" if last else None,
        "traits": {"paternalism": scores},
        **({"traits_complete": True} if last else {}),
    }
    event = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "base", "choices": [choice]}
    return f"data: {json.dumps(event)}\n\n"


def page_of(blocks: gr.Blocks, *servers: Server) -> Page:
    """Return a page of these servers. `blocks` must be open."""
    return Page(Fleet(servers), gr.State(), blocks)


def values_of(form: SettingsForm, **changed: Any) -> list[Any]:
    """Return the values of a form's inputs as a visitor finds them, with the values in `changed` by label."""
    return [changed.get(component.label, component.value) for component in form.inputs]


def lines_of(value: str) -> list[dict[str, Any]]:
    """Return the lines of a view's value."""
    return [json.loads(line) for line in value.splitlines()]


def kinds_of(value: str, pane: int = 0) -> list[str]:
    """Return the kinds of the lines of one pane."""
    return [line["k"] for line in lines_of(value) if line.get("p") == pane]


def notes_of(value: str, panes: Sequence[int] = (0,)) -> list[str]:
    """Return the notes of some panes."""
    return [line["text"] for line in lines_of(value) if line["k"] == "note" and line["p"] in panes]
