"""Attaches scores to the answers of one request: to a JSON body, or to the events of a stream.

The rows come from the worker over a socket of their own, so an answer may be here before its last row. It then waits,
but never longer than `ROWS_TIMEOUT`: it goes out with `"traits_complete": false`, and a counter says so.
"""

import asyncio
from typing import Any

import msgspec

from server.ledger import OpenRequest
from server.metrics import Metrics
from server.scores import summary, token_values
from server.selection import Selection
from server.sse import event_data

# Seconds that an answer may wait for its last rows. They take milliseconds; this is for a worker that stopped sending.
ROWS_TIMEOUT = 2.0

_DECODER = msgspec.json.Decoder()
_ENCODER = msgspec.json.Encoder()


class Attacher:
    """What is known of one request's answers so far.

    Args of the constructor:
        request: the open request.
        selection: what its response is to carry.
        keep_token_ids: whether the client asked for token ids itself; otherwise they are taken out again.
        metrics: where complete and incomplete choices are counted.
    """

    def __init__(self, request: OpenRequest, selection: Selection, *, keep_token_ids: bool, metrics: Metrics):
        self._request = request
        self._selection = selection
        self._keep_token_ids = keep_token_ids
        self._metrics = metrics
        # Of each choice: tokens generated so far (None where vLLM does not tell), and token states already sent.
        self._generated: dict[int, int | None] = {}
        self._sent: dict[int, int] = {}

    async def body(self, body: bytes) -> bytes:
        """Return the JSON answer `body` with scores in each choice."""
        answer = _DECODER.decode(body)
        choices = answer["choices"]
        for choice in choices:
            self._generated[choice["index"]] = _num_tokens(choice, answer)
        await asyncio.gather(*(self._finish(choice, whole=True) for choice in choices))
        for part in (answer, *choices):
            self._strip(part)
        return _ENCODER.encode(answer)

    async def event(self, event: bytes) -> bytes:
        """Return one event of the stream, with what scores have come since the choice's last event."""
        data = event_data(event)
        if data is None or not data.startswith(b"{"):
            return event
        answer = _DECODER.decode(data)
        choices = answer.get("choices")
        if not choices:
            return event
        for choice in choices:
            self._count(choice)
        if not self._keep_token_ids and all(map(_says_nothing, choices)):
            # vLLM sends it for its token ids alone; what it scores goes out with the next.
            return b""
        for choice in choices:
            if choice.get("finish_reason") is None:
                self._progress(choice)
            else:
                await self._finish(choice, whole=False)
        for part in (answer, *choices):
            self._strip(part)
        return b"data: " + _ENCODER.encode(answer) + b"\n\n"

    def _count(self, choice: dict[str, Any]) -> None:
        """Count the tokens of an event, as long as every event of the choice has told its own."""
        index, token_ids = choice["index"], choice.get("token_ids")
        so_far = self._generated.get(index, 0)
        if token_ids is not None:
            self._generated[index] = None if so_far is None else so_far + len(token_ids)
        elif "token_ids" in choice:
            self._generated[index] = None

    def _progress(self, choice: dict[str, Any]) -> None:
        """Attach the projections that arrived since the choice's last event, if any did."""
        index = choice["index"]
        generated = self._generated.get(index, 0)
        if not self._selection.tokens or generated is None:
            return
        rows = self._request.choice(index)
        end = min(rows.contiguous(), generated - 1)
        start = self._sent.get(index, 0)
        if end <= start:
            return
        states = rows.states(end)[start:]
        choice["traits"] = {
            trait.name: {"start": start, "tokens": token_values(trait, states)} for trait in self._selection.traits
        }
        self._sent[index] = end

    async def _finish(self, choice: dict[str, Any], *, whole: bool) -> None:
        """Attach the summary of a choice that ended, and the tokens that no event has carried yet."""
        index = choice["index"]
        rows = self._request.choice(index)
        num_tokens = self._generated.get(index, 0)
        known = num_tokens is not None
        if num_tokens is None:
            num_tokens = rows.contiguous() + 1
        num_states = max(0, num_tokens - 1)
        complete = await self._wait(index, num_states, known=known)
        states = rows.states(num_states)
        start = self._sent.get(index, 0)
        traits: dict[str, Any] = {}
        for trait in self._selection.traits:
            fields = summary(trait, states, rows.prompt_last())
            if self._selection.tokens:
                fields["tokens"] = token_values(trait, states[start:]) + [None] * min(1, num_tokens)
                if not whole:
                    fields["start"] = start
            traits[trait.name] = fields
        choice["traits"] = traits
        choice["traits_complete"] = complete

    async def _wait(self, index: int, num_states: int, *, known: bool) -> bool:
        reason = None
        if not known:
            reason = "token_count_unknown"
        elif not self._request.accepted:
            reason = "too_many_requests"
        elif not await self._request.wait_complete(index, num_states, ROWS_TIMEOUT):
            reason = "rows_missing"
        if reason is None:
            self._metrics.responses_scored.inc()
        else:
            self._metrics.responses_incomplete.labels(reason).inc()
        return reason is None

    def _strip(self, part: dict[str, Any]) -> None:
        """Set token ids to null where the client did not ask for them, as vLLM does."""
        if self._keep_token_ids:
            return
        for field in ("token_ids", "prompt_token_ids"):
            if field in part:
                part[field] = None


def _num_tokens(choice: dict[str, Any], answer: dict[str, Any]) -> int | None:
    """Return how many tokens a whole choice has; None where vLLM does not tell."""
    token_ids = choice.get("token_ids")
    if token_ids is not None:
        return len(token_ids)
    usage = answer.get("usage")
    return usage["completion_tokens"] if usage and len(answer["choices"]) == 1 else None


def _says_nothing(choice: dict[str, Any]) -> bool:
    """Tell whether a choice of an event carries token ids and nothing else."""
    return choice.get("delta") == {} and choice.get("finish_reason") is None and choice.get("logprobs") is None
