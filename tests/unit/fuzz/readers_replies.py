"""Readers of what servers reply: judges, endpoints, Claude, and Traitwatch servers as the inspector reads them.

The requests go through the real SDKs. The replies come from a transport in this process.
"""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import anthropic
import httpx
import httpx2
import openai
from rich.console import Console

from tests.support.claude import TEXT
from tests.support.fuzzing import Reader
from tests.support.wire import anthropic as claude_wire
from tests.support.wire import openai as wire
from traitwatch.errors import NetworkError
from traitwatch.network import checked_header, checked_key, checked_url, client_options, proxy_note
from traitwatch_builder.clients import chat_completions
from traitwatch_builder.clients import claude as claude_client
from traitwatch_builder.clients.address import server_url
from traitwatch_builder.clients.chat_completions import ChatClient, plain_error
from traitwatch_builder.clients.claude import Claude
from traitwatch_builder.clients.completion import Choice, Completion, Message
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.judging.replies import (
    UnreadableReplyError,
    score_of_integer,
    score_of_logprobs,
    score_of_samples,
)
from traitwatch_dashboards.errors import DashboardError
from traitwatch_dashboards.inspector.api.client import Server
from traitwatch_dashboards.inspector.api.problems import message_of
from traitwatch_dashboards.inspector.api.traffic import parse_sample
from traitwatch_dashboards.inspector.scored.generation import GenerationRequest, generate
from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText
from traitwatch_dashboards.inspector.scored.scoring import Pasted, score

URL = "http://127.0.0.1:9"
TRAIT = {"id": "a", "object": "trait", "layer": 3, "calibration": {"mean": 0.5, "std": 1.0}, "threshold": {"z": 3.0}}


# --- judges


def _integer(data: bytes, folder: Path) -> None:
    score_of_integer(Choice(message=Message(content=data.decode("utf-8", "replace"))))


def _completion(data: bytes, folder: Path) -> None:
    try:
        reply = Completion.model_validate(json.loads(data))
    except (ValueError, RecursionError):
        return
    for choice in reply.choices:
        assert choice.said
        for read in (score_of_logprobs, score_of_integer):
            with suppress(UnreadableReplyError):
                value = read(choice)
                assert value is None or 0 <= value <= 100
    score_of_samples(reply.choices)


def _completions() -> list[bytes]:
    replies = (
        wire.first_token({"85": 0.6, " 90": 0.3, "REF": 0.1}),
        wire.completion('{"score": 85, "refusal": false}', reasoning="hm", tool_calls=[{"id": "1"}]),
    )
    return [json.dumps(reply.body).encode() for reply in replies]


JUDGED = (b'```json\n{"score": 85, "refusal": false}\n```', b"<think>85?</think>\n**Score:** 85/100", b"REFUSAL")


# --- chat servers


def _client(respond: Callable[[httpx2.Request], httpx2.Response]) -> ChatClient:
    client = ChatClient(f"{URL}/v1", "k", 0, lambda text: None)
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(respond))
    client._sdk = client._sdk.with_options(http_client=http)
    return client


def _asked(respond: Callable[[httpx2.Request], httpx2.Response]) -> None:
    async def ask() -> None:
        async with _client(respond) as client:
            assert isinstance(await client.is_traitwatch(), bool)
            try:
                await client.models()
                await client.complete(seconds=1, model="m", messages=[])
            except openai.OpenAIError as error:
                raise plain_error(error, client.url, "m") from error

    with mock.patch.object(chat_completions.asyncio, "sleep", _at_once):
        asyncio.run(ask())


async def _at_once(seconds: float) -> None:
    """Wait for nothing."""


def _endpoint(data: bytes, folder: Path) -> None:
    _asked(lambda request: httpx2.Response(200, content=data, headers={"content-type": "application/json"}))


def _endpoint_error(data: bytes, folder: Path) -> None:
    # An error of a server is always an error, with the server's message or without.
    with suppress(PipelineError):
        _asked(lambda request: httpx2.Response(400, content=data, headers={"content-type": "application/json"}))


# --- Claude


def _claude(data: bytes, folder: Path) -> None:
    def respond(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=data, headers={"content-type": "text/event-stream"})

    environment = {"ANTHROPIC_API_KEY": "k", "ANTHROPIC_BASE_URL": URL}
    with mock.patch.dict("os.environ", environment), mock.patch.object(claude_client, "_STREAM_WAIT", 0.0):
        claude = Claude("m", {"type": "object"}, Console(quiet=True))
        http = httpx2.Client(transport=httpx2.MockTransport(respond))
        claude._client = anthropic.Anthropic(max_retries=0, http_client=http)
        claude.ask([{"role": "user", "content": "?"}])


def _stream() -> list[bytes]:
    body = claude_wire.streamed(TEXT[:3000], thinking="hm").body
    assert isinstance(body, bytes)
    return [body]


# --- Traitwatch servers, as the inspector reads them


def _server(data: bytes, kind: str = "application/json") -> Server:
    server = Server(URL)
    headers = {"content-type": kind}
    ours = httpx.MockTransport(lambda request: httpx.Response(200, content=data, headers=headers))
    theirs = httpx2.MockTransport(lambda request: httpx2.Response(200, content=data, headers=headers))
    server.__dict__["_http"] = httpx.AsyncClient(transport=ours)
    http = httpx2.AsyncClient(transport=theirs)
    server.__dict__["openai"] = openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="k", max_retries=0, http_client=http)
    return server


def _served(data: bytes, folder: Path) -> None:
    found = asyncio.run(_server(data).served())
    assert found.problem or found.models or not found.traits
    for trait in found.traits:
        trait.z(1.0)


def _generated(data: bytes, folder: Path) -> None:
    async def run() -> None:
        answer = InspectedText((), "m")
        request = GenerationRequest(_server(data, "text/event-stream"), "m", [])
        async for _ in generate(request, answer):
            pass

    asyncio.run(run())


def _event(**choice: Any) -> bytes:
    chunk = {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, **choice}],
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def _events() -> list[bytes]:
    entry = {"token": "yes", "logprob": -0.1, "bytes": None, "top_logprobs": []}
    scored = {"a": {"tokens": [0.5, None], "start": 0}}
    summary = {"a": {"layer": 3, "mean": 0.5, "z": 0.1, "max_z": 0.2, "spikes": []}}
    first = _event(delta={"content": "yes"}, logprobs={"content": [entry]}, traits=scored)
    return [first + _event(delta={}, finish_reason="stop", traits=summary, traits_complete=True) + b"data: [DONE]\n\n"]


def _scored(data: bytes, folder: Path) -> None:
    asyncio.run(score(_server(data), "m", Pasted("yes"), ()))


def _sample(data: bytes, folder: Path) -> None:
    parse_sample(data.decode("utf-8", "replace"), 1.0)


def _message(data: bytes, folder: Path) -> None:
    assert isinstance(message_of(data.decode("utf-8", "replace")), str)


METRICS = b"""# TYPE traitwatch_spikes_total counter
traitwatch_spikes_total{trait="a",model_name="m"} 3.0
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} 1.0
"""


# --- options and the environment


def _address(data: bytes, folder: Path) -> None:
    text = data.decode("utf-8", "surrogateescape")
    url = server_url(text or "x", "--judge-base-url")
    httpx2.Client(**client_options(checked_url(url, "--judge-base-url"))).close()


def _key(data: bytes, folder: Path) -> None:
    key = checked_key(data.decode("utf-8", "surrogateescape"), "KEY")
    httpx2.Headers({"authorization": f"Bearer {checked_header(key, 'KEY')}"})


def _clients(environment: dict[str, str]) -> None:
    with mock.patch.dict("os.environ", environment):
        httpx2.Client(**client_options(URL)).close()
        proxy_note("http://203.0.113.9")
        options = client_options("http://203.0.113.9")
        httpx2.Client(**options).close()
        httpx.Client(**options).close()


def _proxy(data: bytes, folder: Path) -> None:
    _clients({"ALL_PROXY": data.decode("utf-8", "surrogateescape").replace("\x00", "")})


def _no_proxy(data: bytes, folder: Path) -> None:
    _clients({"HTTP_PROXY": URL, "NO_PROXY": data.decode("utf-8", "surrogateescape").replace("\x00", "")})


READERS = (
    Reader("judge's text", lambda: JUDGED, _integer, (UnreadableReplyError,)),
    Reader("judge's completion", _completions, _completion, (UnreadableReplyError,)),
    Reader("endpoint's completion", _completions, _endpoint, (PipelineError,), share=0.3),
    Reader(
        "endpoint's error",
        lambda: [b'{"error": {"message": "x", "code": "y"}}'],
        _endpoint_error,
        (PipelineError,),
        share=0.3,
    ),
    Reader("Claude's stream", _stream, _claude, (PipelineError,), share=0.2),
    Reader(
        "inspector's list",
        lambda: [json.dumps({"object": "list", "data": [TRAIT]}).encode()],
        _served,
        (),
        share=0.3,
    ),
    Reader("inspector's stream", _events, _generated, (), share=0.3),
    Reader(
        "inspector's scores",
        lambda: [json.dumps({"tokens": [1], "choices": [{"logprobs": {"tokens": ["yes"]}, "traits": {}}]}).encode()],
        _scored,
        (DashboardError,),
        share=0.3,
    ),
    Reader("inspector's metrics", lambda: [METRICS], _sample, (DashboardError,)),
    Reader("server's error message", lambda: [b'{"error": {"message": "x"}}', b'{"detail": "y"}'], _message, ()),
    Reader("address", lambda: [b"http://127.0.0.1:8000/v1", b"https://a.b/c?d=e"], _address, (NetworkError,)),
    Reader("key", lambda: [b"sk-ant-api03-abc_DEF"], _key, (NetworkError,)),
    Reader("proxy", lambda: [b"http://user:word@127.0.0.1:9"], _proxy, (NetworkError,), share=0.2),
    Reader("no proxy", lambda: [b"::1,a.b,.c.d,10.0.0.0/8,localhost:80"], _no_proxy, (NetworkError,), share=0.2),
)
