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
        # Of each choice that streams: tokens generated so far, and token states already sent.
        self._generated: dict[int, int] = {}
        self._sent: dict[int, int] = {}

    async def body(self, body: bytes) -> bytes:
        """Return the JSON answer `body` with scores in each choice."""
        answer = _DECODER.decode(body)
        choices = answer["choices"]
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
            index = choice["index"]
            self._generated[index] = self._generated.get(index, 0) + len(choice.get("token_ids") or ())
            if choice.get("finish_reason") is None:
                self._progress(choice)
            else:
                await self._finish(choice, whole=False)
        for part in (answer, *choices):
            self._strip(part)
        return b"data: " + _ENCODER.encode(answer) + b"\n\n"

    def _progress(self, choice: dict[str, Any]) -> None:
        """Attach the projections that arrived since the choice's last event, if any did."""
        if not self._selection.tokens:
            return
        index = choice["index"]
        rows = self._request.choice(index)
        # A state is final once the token after it is known; before that it may be of a token that vLLM took back.
        end = min(rows.contiguous(), self._generated[index] - 1)
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
        token_ids = choice.get("token_ids")
        if whole:
            self._generated[index] = len(token_ids or ())
        num_tokens = self._generated[index]
        num_states = max(0, num_tokens - 1)
        complete = await self._wait(index, num_states, known=token_ids is not None)
        rows = self._request.choice(index)
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
