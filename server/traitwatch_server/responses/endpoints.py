"""Where in an answer the scores go, for each endpoint.

Chat and completions have choices, each with its own field. `/v1/responses` and `/v1/messages` have one answer, which
gets the field at its top; it may be made of several calls of the engine. In a stream, an event that carries text takes
the projections that have come, the event that ends an answer takes the rest and the summary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

Json = dict[str, Any]


class Portion(Enum):
    """What of an answer's scores a carrier takes."""

    PROGRESS = "the projections that have come since the last event"
    REST = "the summary, and the projections that no event has carried"
    WHOLE = "the summary, and all projections"


@dataclass(frozen=True)
class Carrier:
    """A JSON object that takes scores.

    Attributes:
        fields: the object.
        answer: the number of the choice; None where the response is one answer.
        part: what it takes.
    """

    fields: Json
    answer: int | None
    part: Portion


class Without(Enum):
    """What makes an answer carry no scores: the field of the request that asks for it, where it is true."""

    # Its beams share states and are dropped and continued: no run of tokens that could be scored.
    BEAM_SEARCH = "use_beam_search"
    # Its answer is fetched later.
    BACKGROUND = "background"


@dataclass(frozen=True)
class Shape:
    """An endpoint's answers.

    Attributes:
        body: finds the carriers of a JSON answer.
        event: finds the carriers of one event's data.
        without: what makes one of them carry no scores; None where nothing does.
    """

    body: Callable[[Json], Sequence[Carrier]]
    event: Callable[[Json], Sequence[Carrier]]
    without: Without | None = None


def _choices_of_body(answer: Json) -> list[Carrier]:
    # vLLM answers with null where the server is ended in the midst of a request; an embedding has none.
    return [Carrier(choice, choice["index"], Portion.WHOLE) for choice in answer.get("choices") or ()]


def _choices_of_batch(answer: Json) -> list[Carrier]:
    # `index` is the conversation's number there, whatever `n` is.
    return [Carrier(choice, i, Portion.WHOLE) for i, choice in enumerate(answer["choices"] or ())]


def _choices_of_event(data: Json) -> list[Carrier]:
    return [
        Carrier(choice, choice["index"], Portion.PROGRESS if choice.get("finish_reason") is None else Portion.REST)
        for choice in data.get("choices") or ()
    ]


def _one_answer(answer: Json) -> list[Carrier]:
    return [Carrier(answer, None, Portion.WHOLE)]


def _responses_event(data: Json) -> list[Carrier]:
    kind = data.get("type", "")
    if kind.endswith(".delta"):
        return [Carrier(data, None, Portion.PROGRESS)]
    if kind in ("response.completed", "response.incomplete", "response.failed"):
        return [Carrier(data["response"], None, Portion.WHOLE)]
    return []


def _messages_event(data: Json) -> list[Carrier]:
    kind = data.get("type")
    if kind == "content_block_delta":
        return [Carrier(data, None, Portion.PROGRESS)]
    if kind == "message_delta":
        return [Carrier(data, None, Portion.REST)]
    return []


MESSAGES = "/v1/messages"
# What the server's schema tells of.
SHAPES = {
    "/v1/chat/completions": Shape(_choices_of_body, _choices_of_event, Without.BEAM_SEARCH),
    "/v1/completions": Shape(_choices_of_body, _choices_of_event, Without.BEAM_SEARCH),
    "/v1/chat/completions/batch": Shape(_choices_of_batch, _choices_of_event),
    "/v1/responses": Shape(_one_answer, _responses_event, Without.BACKGROUND),
    MESSAGES: Shape(_one_answer, _messages_event),
}
# SageMaker's one endpoint for all: a chat or a completion, by what the body has.
_INVOCATIONS = "/invocations"


def shape_of(path: str) -> Shape | None:
    """Return the shape of an endpoint's answers; None where nothing in them is scored."""
    return SHAPES["/v1/completions"] if path == _INVOCATIONS else SHAPES.get(path)
