"""Sends traffic to a server of the matrix: requests of any length, and clients that leave. Checks the answers."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.random_llama import MAX_ERROR, Oracle
from tests.support.serving import MODEL_NAME, Server

# The tokens of the byte tokenizer that are bytes. The other tokens are special.
NUM_BYTES = 256


@dataclass
class Answer:
    """One choice of a response, as its client received it. The parts of a stream are joined.

    Attributes:
        prompt: ids of the prompt's tokens.
        tokens: ids of the generated tokens.
        traits: `traits` of the choice; of a stream, those of the last event with the tokens of all events.
        complete: `traits_complete` of the choice.
        cached: the number of prompt tokens from the prefix cache, if the server reports it.
        events: the number of events of the stream; 0 for an unstreamed answer.
        late: the number of events that left a token of an earlier event without its projection.
    """

    prompt: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    traits: dict[str, Any] = field(default_factory=dict)
    complete: bool | None = None
    cached: int | None = None
    events: int = 0
    late: int = 0

    def take(self, choice: Any) -> None:
        """Add an event of the stream. Assert that each scored token has arrived and has a state."""
        known = len(self.tokens)
        self.events += 1
        self.prompt += getattr(choice, "prompt_token_ids", None) or []
        self.tokens += choice.token_ids
        if choice.finish_reason is not None:
            self.complete = choice.traits_complete
        for name, fields in (getattr(choice, "traits", None) or {}).items():
            before = self.traits.get(name, {"tokens": []})["tokens"]
            assert fields["start"] == len(before), f"event {self.events} starts at {fields['start']}"
            self.traits[name] = {**fields, "tokens": before + fields["tokens"]}
        scored = [fields["tokens"] for fields in self.traits.values()]
        if choice.finish_reason is None:
            assert all(len(tokens) < len(self.tokens) for tokens in scored), (
                f"event {self.events} is ahead of its tokens"
            )
        self.late += any(len(tokens) < known for tokens in scored) or (known > 0 and not scored)

    def check(self, oracle: Oracle) -> float:
        """Assert that all projections are there and right. If the answer has the prompt's projections, check them too.

        Returns:
            The largest error, in spreads.
        """
        assert self.complete is True
        if self.with_prompt:
            self._check_prompt(oracle)
        return oracle.check(self.traits, self.prompt, self.tokens)

    @property
    def with_prompt(self) -> bool:
        """Whether the answer has the projections of the prompt's tokens."""
        return all("prompt_tokens" in fields for fields in self.traits.values())

    def _check_prompt(self, oracle: Oracle) -> None:
        for name, wanted in oracle.projections(self.prompt).items():
            got = np.array(self.traits[name]["prompt_tokens"], dtype=np.float64)
            assert got.shape == wanted.shape, f"{name}: {len(got)} of the prompt's {len(wanted)} tokens"
            error = np.abs(got - wanted)
            assert not np.isnan(error).any(), f"{name}: projections of the prompt's tokens are missing"
            assert (error <= MAX_ERROR * wanted.std()).all(), f"{name}: token {error.argmax()} of the prompt is wrong"


def request(prompt: Sequence[int], **options: Any) -> dict[str, Any]:
    """Return a request to `/v1/completions`. `extra_body` is added to the fields that the checks need."""
    extra = {"return_token_ids": True, **options.pop("extra_body", {})}
    if options.get("stream"):
        options["stream_options"] = {"include_usage": True}
    return {"model": MODEL_NAME, "prompt": list(prompt), "temperature": 1.0, **options, "extra_body": extra}


def random_prompt(seed: int, length: int, alphabet: Sequence[int] = range(NUM_BYTES)) -> list[int]:
    """Return a prompt of `length` random bytes."""
    tokens: list[int] = np.random.default_rng(seed).choice(alphabet, length).tolist()
    return tokens


async def answers(server: Server, request_body: dict[str, Any]) -> list[Answer]:
    """Send a request, streamed or not, and return its choices."""
    async with server.async_client() as client:
        if not request_body.get("stream"):
            response: Any = await client.completions.create(**request_body)
            cached = _cached(response.usage)
            return [
                Answer(choice.prompt_token_ids, choice.token_ids, choice.traits, choice.traits_complete, cached)
                for choice in response.choices
            ]
        joined: dict[int, Answer] = {}
        events: Any = await client.completions.create(**request_body)
        async for event in events:
            for choice in event.choices:
                joined.setdefault(choice.index, Answer()).take(choice)
            if event.usage is not None:
                for answer in joined.values():
                    answer.cached = _cached(event.usage)
        return [joined[index] for index in sorted(joined)]


def _cached(usage: Any) -> int | None:
    return usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None


async def leave(server: Server, request_body: dict[str, Any], after_events: int) -> None:
    """Stream a request and close the connection after some events. With 0, close it after the headers."""
    body = {**request_body, **request_body["extra_body"], "stream": True}
    del body["extra_body"]
    async with (
        httpx.AsyncClient(timeout=300) as client,
        client.stream("POST", f"{server.url}/v1/completions", json=body) as response,
    ):
        assert response.status_code == 200
        if after_events == 0:
            return
        async for line in response.aiter_lines():
            after_events -= line.startswith("data: ")
            if after_events == 0:
                return
    raise AssertionError("the stream was over before its client left")


async def give_up(server: Server, request_body: dict[str, Any], seconds: float) -> None:
    """Send an unstreamed request, and close the connection before the answer can arrive."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await answers(server, request_body)


async def emptied(server: Server) -> None:
    """Wait until the ledger is empty."""
    deadline = time.monotonic() + 30
    while server.metric("traitwatch_ledger_requests") != 0:
        assert time.monotonic() < deadline, "the ledger still has calls of responses that have ended"
        await asyncio.sleep(0.1)
