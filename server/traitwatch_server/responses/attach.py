"""Attaches the scores of one request to its answers: to a JSON body, or to the events of a stream."""

import asyncio
import re
from functools import partial

import msgspec

from traitwatch_server.pacing import Pacer
from traitwatch_server.responses.answer_scores import AnswerScores
from traitwatch_server.responses.endpoints import OBJECT, Carrier, Portion, Shape
from traitwatch_server.responses.long_lists import LongLists
from traitwatch_server.responses.scored_request import ScoredRequest

_ENCODER = msgspec.json.Encoder()
# To look through a larger answer of vLLM's, or to copy it, takes long enough for others to want a turn in between.
_LARGE = 2**20
_END_OF_EVENT = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_DATA_LINE = re.compile(rb"^data: ?([^\r\n]*)", re.MULTILINE)


class Attacher:
    """Rewrites the answers of one request.

    Attributes:
        given_up: whether every answer from here on carries `"traits_complete": false` and no scores.
    """

    def __init__(self, request: ScoredRequest, shape: Shape, pacer: Pacer):
        """Start with no answer.

        Args:
            request: the scored request.
            shape: where the scores go in the answers of its endpoint.
            pacer: shares the event loop among all work on long answers.
        """
        self.given_up = False
        self._request = request
        self._shape = shape
        self._pacer = pacer
        self._lists = LongLists()
        self._answers: dict[int, AnswerScores] = {}

    async def body(self, body: bytes) -> list[bytes]:
        """Return the JSON answer `body` with scores, in pieces."""
        try:
            answer = OBJECT.decode(body)
        except msgspec.ValidationError:
            # vLLM answers `null` to a client that has left.
            return [body]
        large = len(body) > _LARGE
        if large:
            await asyncio.sleep(0)
        carriers = self._shape.body(answer)
        if not carriers:
            return [body]
        await asyncio.gather(*map(self._fill, carriers))
        if large:
            await asyncio.sleep(0)
        return self._lists.splice(_ENCODER.encode(answer))

    async def event(self, event: bytes) -> list[bytes]:
        """Return one event of the stream with its scores, in pieces; an event that takes none is returned unchanged."""
        data = event_data(event)
        if data is None or not data.startswith(b"{"):
            return [event]
        fields = OBJECT.decode(data)
        carriers = self._shape.event(fields)
        for carrier in carriers:
            await self._fill(carrier)
        if not any(name in carrier.fields for carrier in carriers for name in ("traits", "traits_complete")):
            return [event]
        return self._lists.splice(with_data(event, _ENCODER.encode(fields)))

    async def _fill(self, carrier: Carrier) -> None:
        if self.given_up:
            if carrier.portion is not Portion.PROGRESS:
                carrier.fields["traits_complete"] = False
        elif carrier.portion is Portion.PROGRESS:
            await self._answer(carrier.number).progress(carrier.fields)
        else:
            await self._answer(carrier.number).finish(carrier.fields, whole=carrier.portion is Portion.WHOLE)

    def _answer(self, number: int) -> AnswerScores:
        answer = self._answers.get(number)
        if answer is None:
            turns = partial(self._shape.turns, self._request, number)
            answer = self._answers[number] = AnswerScores(self._request.selection, turns, self._pacer, self._lists)
        return answer


class EventSplitter:
    """Cuts a byte stream into whole events, end marks included, so that joining them gives the stream again."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take bytes; return the events that are whole now."""
        self._rest += chunk
        events = []
        start = 0
        for mark in _END_OF_EVENT.finditer(self._rest):
            events.append(self._rest[start : mark.end()])
            start = mark.end()
        self._rest = self._rest[start:]
        return events

    def rest(self) -> bytes:
        """Return what came after the last whole event."""
        return self._rest


def event_data(event: bytes) -> bytes | None:
    """Return the data of an event that has one `data:` line and perhaps an `event:` line; None for any other."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        # What vLLM's chat and completions send.
        return event[6:-2]
    found = _DATA_LINE.findall(event)
    return found[0] if len(found) == 1 and not event.startswith(b":") else None


def with_data(event: bytes, data: bytes) -> bytes:
    """Return an event with other data in its one `data:` line."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2:
        return b"data: " + data + b"\n\n"
    return _DATA_LINE.sub(lambda line: b"data: " + data, event)
