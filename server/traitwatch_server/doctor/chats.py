"""The requests that the doctor sends to a running server: scored chats, alone or many at once, and a timed load."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import numpy as np

from traitwatch.network import client_options
from traitwatch.vectors import Float32Array
from traitwatch_server.errors import AnswerError

SERVED_NAME = "traitwatch-doctor"
CHATS_AT_ONCE = 32
ABORTED_TOKENS = 400
_ABORTED = 12
_TOPICS = (
    "rain on a tin roof", "the price of bread", "a lost key", "trains", "beekeeping", "the moon", "old maps", "tides",
    "a violin", "snow", "sourdough", "lighthouses", "chess openings", "a garden wall", "ferries", "penguins",
)  # fmt: skip
_TIMEOUT = 600.0
# Bytes at the end of a stream, in which its usage stands.
_TAIL = 4096
_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class ScoredText:
    """A prompt, its answer, and the scores that the server attached.

    Attributes:
        prompt: ids of the prompt's tokens.
        response: ids of the answer's tokens.
        projections: `[num_probes, len(response)]`, float32: at the prompt's last position and at each token but the
            last; NaN where the server had none.
        complete: the server's `traits_complete`.
    """

    prompt: list[int]
    response: list[int]
    projections: Float32Array
    complete: bool


async def solo_chats(url: str, probes: Sequence[str], number: int, max_tokens: int) -> list[ScoredText]:
    """Send chats, one after the other."""
    async with _client(url) as client:
        return [await _chat(client, probes, i, max_tokens) for i in range(number)]


async def crowded_chats(url: str, probes: Sequence[str]) -> list[ScoredText]:
    """Send `CHATS_AT_ONCE` chats of many lengths at staggered times, and others between them whose client leaves."""
    async with _client(url) as client:
        scored, _ = await asyncio.gather(
            asyncio.gather(
                *(_after(0.02 * i, _chat(client, probes, i, 8 + 6 * (i % 9))) for i in range(CHATS_AT_ONCE))
            ),
            asyncio.gather(*(_after(0.05 * i, _hang_up(client, i, 1 + 3 * (i % 4))) for i in range(_ABORTED))),
        )
        return scored


async def rescored_alone(url: str, probes: Sequence[str], texts: Sequence[ScoredText]) -> list[Float32Array]:
    """Send each text again, alone, as one long prompt whose tokens are scored.

    Returns:
        For each text `[num_probes, len(response)]`, float32, as in `ScoredText.projections`.
    """
    states = []
    async with _client(url) as client:
        for text in texts:
            body = {"model": SERVED_NAME, "prompt": text.prompt + text.response, "max_tokens": 1}
            answer = await _post(client, "/v1/completions", {**body, "traits": {"prompt": True}})
            first, end = len(text.prompt) - 1, len(text.prompt) + len(text.response) - 1
            with _expecting("traits", "prompt_tokens"):
                traits = answer["choices"][0]["traits"]
                rows = [traits[name]["prompt_tokens"][first:end] for name in probes]
            states.append(np.array(rows, dtype=np.float32))
    return states


async def open_calls(url: str, deadline: float = 20.0) -> float:
    """Wait until the server holds rows of no call, or the time is up; return how many calls still have rows there."""
    ends = time.monotonic() + deadline
    async with _client(url) as client:
        while True:
            metrics = (await client.get("/metrics")).text
            lines = [line for line in metrics.splitlines() if line.startswith("traitwatch_ledger_requests")]
            left = sum(float(line.rsplit(maxsplit=1)[1]) for line in lines)
            if left == 0 or time.monotonic() > ends:
                return left
            await asyncio.sleep(0.2)


async def tokens_per_second(url: str, tokens: int) -> float:
    """Stream `CHATS_AT_ONCE` chats of `tokens` tokens at once; return the tokens generated in a second."""

    async def chat(number: int) -> None:
        body = {**_body(number, tokens), "temperature": 0.7, "stream": True, "stream_options": {"include_usage": True}}
        tail = b""
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            await _check(response)
            # The events are not parsed: an event with scores must not cost this client more than one without.
            async for part in response.aiter_raw():
                tail = (tail + part)[-_TAIL:]
        if re.search(rb'"completion_tokens":\s*%d\b' % tokens, tail) is None:
            raise AnswerError(f"a stream ended without its {tokens} tokens: {tail[-200:].decode(errors='replace')}")

    async with _client(url) as client:
        started = time.perf_counter()
        await asyncio.gather(*(chat(number) for number in range(CHATS_AT_ONCE)))
        return CHATS_AT_ONCE * tokens / (time.perf_counter() - started)


def _client(url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(base_url=url, timeout=_TIMEOUT, limits=limits, **client_options(url))


def _body(number: int, max_tokens: int) -> dict[str, Any]:
    """Return chat `number`: its own topic and its own length of prompt."""
    padding = "Please take your time and be friendly. " * (number % 7)
    text = f"{padding}Tell me {number + 2} things about {_TOPICS[number % len(_TOPICS)]}."
    messages = [{"role": "user", "content": text}]
    return {"model": SERVED_NAME, "messages": messages, "max_tokens": max_tokens, "ignore_eos": True}


async def _chat(client: httpx.AsyncClient, probes: Sequence[str], number: int, max_tokens: int) -> ScoredText:
    body = {**_body(number, max_tokens), "temperature": 0.7, "traits": True, "return_token_ids": True}
    answer = await _post(client, "/v1/chat/completions", body)
    with _expecting("traits", "prompt_token_ids", "token_ids"):
        choice = answer["choices"][0]
        rows = [[choice["traits"][name]["prompt_last"], *choice["traits"][name]["tokens"][:-1]] for name in probes]
        return ScoredText(
            prompt=answer["prompt_token_ids"],
            response=choice["token_ids"],
            projections=np.array(rows, dtype=np.float32),
            complete=choice["traits_complete"] is True,
        )


async def _hang_up(client: httpx.AsyncClient, number: int, events: int) -> None:
    """Stream a long answer and leave after some events."""
    body = {**_body(number, ABORTED_TOKENS), "stream": True, "traits": True}
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        await _check(response)
        seen = 0
        async for line in response.aiter_lines():
            seen += line.startswith("data:")
            if seen > events:
                return


async def _after(delay: float, answer: Awaitable[_T]) -> _T:
    await asyncio.sleep(delay)
    return await answer


async def _post(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Any:
    response = await client.post(path, json=body)
    await _check(response)
    return json.loads(response.content)


async def _check(response: httpx.Response) -> None:
    if response.status_code != 200:
        text = (await response.aread()).decode(errors="replace")
        raise AnswerError(f"the server answered with status {response.status_code}: {text[:300]}")


@contextmanager
def _expecting(*fields: str) -> Iterator[None]:
    """Raise `AnswerError` with the names of the fields where the answer lacks one of them."""
    try:
        yield
    except (LookupError, TypeError) as error:
        raise AnswerError(f"the server's answer lacks one of {', '.join(fields)}: {error!r}") from error
