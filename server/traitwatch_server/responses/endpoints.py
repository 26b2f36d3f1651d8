"""Where in an answer the scores go, for each endpoint.

Chat and completions have choices, and each choice carries its own scores. `/v1/responses` and `/v1/messages` have one
answer, which carries the scores at its top; it may be made of several calls of the engine. In a stream, an event with
text carries the projections that have come. The event that ends an answer carries the rest and the summary.

Only the objects that take scores are decoded, each field of theirs being JSON text (`msgspec.Raw`) until it is needed.
So an answer with a hundred thousand log probabilities takes no longer than another, and goes out as vLLM wrote it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec

from traitwatch_server.responses.schema import Json
from traitwatch_server.responses.scored_request import ScoredRequest, Turn

OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
"""Decodes a JSON object, and leaves its fields JSON text."""

_OBJECTS = msgspec.json.Decoder(list[dict[str, msgspec.Raw]] | None)
_VALUE = msgspec.json.Decoder()


class Portion(Enum):
    """What of an answer's scores a carrier takes."""

    PROGRESS = "the projections that have come since the last event"
    REST = "the summary, and the projections that no event has carried"
    WHOLE = "the summary, and all projections"


@dataclass(frozen=True)
class Carrier:
    """A JSON object that takes scores.

    Attributes:
        fields: the object; its own fields are JSON text.
        number: the number of the answer in the response: that of the choice, or 0 where the response is one answer.
        portion: what it takes.
    """

    fields: Json
    number: int
    portion: Portion


class Without(Enum):
    """The field of a request that, where it is true, makes the response carry no scores."""

    # The beams share states, and are dropped and continued: there is no run of tokens that could be scored.
    BEAM_SEARCH = "use_beam_search"
    # The answer is fetched later.
    BACKGROUND = "background"


@dataclass(frozen=True)
class Shape:
    """The answers of an endpoint.

    Attributes:
        body: finds the carriers of a JSON answer (`OBJECT`), and decodes what leads to them.
        event: finds the carriers of one event's data likewise.
        turns: finds the turns of the answer with a number.
        without: the field that makes a response carry no scores; None where there is none.
        echoes: whether an answer may be the prompt alone (`echo` with `max_tokens: 0`).
    """

    body: Callable[[Json], Sequence[Carrier]]
    event: Callable[[Json], Sequence[Carrier]]
    turns: Callable[[ScoredRequest, int], Sequence[Turn]]
    without: Without | None = None
    echoes: bool = False


def _value(fields: Json, name: str) -> Any:
    raw = fields.get(name)
    return None if raw is None else _VALUE.decode(raw)


def _choices(fields: Json) -> list[Json]:
    """Open the choices of an answer or event."""
    # vLLM answers with null where the server is ended in the midst of a request. An embedding has no choices.
    if "choices" not in fields:
        return []
    fields["choices"] = _OBJECTS.decode(fields["choices"])
    return fields["choices"] or []


def _choices_of_body(answer: Json) -> list[Carrier]:
    return [Carrier(choice, _VALUE.decode(choice["index"]), Portion.WHOLE) for choice in _choices(answer)]


def _choices_of_batch(answer: Json) -> list[Carrier]:
    # `index` is the number of the conversation there, whatever `n` is.
    return [Carrier(choice, i, Portion.WHOLE) for i, choice in enumerate(_choices(answer))]


def _choices_of_event(data: Json) -> list[Carrier]:
    return [
        Carrier(
            choice,
            _VALUE.decode(choice["index"]),
            Portion.PROGRESS if _value(choice, "finish_reason") is None else Portion.REST,
        )
        for choice in _choices(data)
    ]


def _one_answer(answer: Json) -> list[Carrier]:
    return [Carrier(answer, 0, Portion.WHOLE)]


def _responses_event(data: Json) -> list[Carrier]:
    kind = _value(data, "type") or ""
    if kind.endswith(".delta"):
        return [Carrier(data, 0, Portion.PROGRESS)]
    if kind in ("response.completed", "response.incomplete", "response.failed"):
        data["response"] = OBJECT.decode(data["response"])
        return [Carrier(data["response"], 0, Portion.WHOLE)]
    return []


def _messages_event(data: Json) -> list[Carrier]:
    kind = _value(data, "type")
    if kind == "content_block_delta":
        return [Carrier(data, 0, Portion.PROGRESS)]
    if kind == "message_delta":
        return [Carrier(data, 0, Portion.REST)]
    return []


def _all_turns(request: ScoredRequest, number: int) -> list[Turn]:
    return request.all_turns()


MESSAGES = "/v1/messages"
_CHOICES = Shape(_choices_of_body, _choices_of_event, ScoredRequest.choice, Without.BEAM_SEARCH, echoes=True)
# The endpoints that the server's schema describes.
SHAPES = {
    "/v1/chat/completions": _CHOICES,
    "/v1/completions": _CHOICES,
    "/v1/chat/completions/batch": Shape(_choices_of_batch, _choices_of_event, ScoredRequest.choice),
    "/v1/responses": Shape(_one_answer, _responses_event, _all_turns, Without.BACKGROUND),
    MESSAGES: Shape(_one_answer, _messages_event, _all_turns),
}
# SageMaker's one endpoint: the body makes it a chat or a completion.
_INVOCATIONS = "/invocations"


def shape_of(path: str) -> Shape | None:
    """Return the shape of an endpoint's answers; None where the endpoint has no answer that is scored."""
    return SHAPES["/v1/completions"] if path == _INVOCATIONS else SHAPES.get(path)
