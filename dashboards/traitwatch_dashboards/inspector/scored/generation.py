"""Requests one answer and yields its pieces: tokens, and the projections that the server sends with them."""

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from traitwatch_dashboards.inspector.api.client import Server
from traitwatch_dashboards.inspector.api.problems import TROUBLE, problem
from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText, Summary, summary_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GenerationRequest:
    """One request for an answer.

    Attributes:
        server: the server that is asked.
        model: the model or adapter.
        messages: the conversation so far, the question last.
        temperature: temperature of the sampling.
        top_p: top p of the sampling.
        max_tokens: longest answer, tokens.
    """

    server: Server
    model: str
    messages: list[dict[str, str]]
    temperature: float = 0.7
    top_p: float = 0.9
    max_tokens: int = 400


@dataclass(frozen=True)
class Piece:
    """The additions of one event of the stream.

    Attributes:
        texts: displayed texts of the new tokens.
        start: index of the token that the first projections belong to.
        values: projections by trait, units of the hidden state.
        summaries: by trait, in the last event.
        finish: why the answer ended, in the last event.
        complete: whether the server scored every state, in the last event.
    """

    texts: Sequence[str] = ()
    start: int = 0
    values: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    summaries: Mapping[str, Summary] = field(default_factory=dict)
    finish: str = ""
    complete: bool | None = None


async def generate(request: GenerationRequest, answer: InspectedText) -> AsyncGenerator[Piece]:
    """Generate an answer into `answer`, and yield each piece.

    An error ends the answer with a note that says what to do. The tokens that have come stay.
    """
    try:
        stream: Any = await request.server.openai.chat.completions.create(
            model=request.model,
            messages=request.messages,  # type: ignore[arg-type]
            temperature=request.temperature,
            top_p=request.top_p,
            max_tokens=request.max_tokens,
            logprobs=True,
            stream=True,
            extra_body={"traits": bool(answer.traits)},
        )
        async with stream:
            async for event in stream:
                for choice in event.choices:
                    piece = piece_of(choice)
                    add_piece(piece, answer)
                    yield piece
    except TROUBLE as error:
        answer.note = problem(error, request.server.url, answering=bool(answer.texts))
        return
    except Exception as error:  # noqa: BLE001 - the SDK raises whatever the response makes it raise
        # The response is not a stream, or its fields have other types. The reader must see that the answer broke off.
        logger.warning("The answer of %s could not be read: %s: %s", request.server.url, type(error).__name__, error)
        answer.note = problem(error, request.server.url)
        return
    answer.note = remark(answer)


def piece_of(choice: Any) -> Piece:
    """Return the piece in a choice of a stream's event."""
    delta = choice.delta
    text = (getattr(delta, "reasoning", None) or "") + (delta.content or "")
    logprobs = choice.logprobs.content if choice.logprobs is not None else None
    tokens = [entry.token for entry in logprobs or ()]
    extra = choice.model_extra or {}
    fields: dict[str, dict[str, Any]] = extra.get("traits") or {}
    values = {name: scores["tokens"] for name, scores in fields.items() if scores.get("tokens")}
    starts = [scores.get("start", 0) for scores in fields.values() if scores.get("tokens")]
    return Piece(
        texts=displayed_texts(tokens, text) if tokens else [text] if text else [],
        start=starts[0] if starts else 0,
        values=values,
        summaries={name: summary_of(scores) for name, scores in fields.items() if "layer" in scores},
        finish=choice.finish_reason or "",
        complete=extra.get("traits_complete"),
    )


def add_piece(piece: Piece, answer: InspectedText) -> None:
    """Add a piece to its answer."""
    answer.add(piece.texts, piece.start, piece.values)
    answer.summaries.update(piece.summaries)
    answer.finish = piece.finish or answer.finish
    answer.complete = piece.complete if piece.complete is not None else answer.complete


def remark(answer: InspectedText) -> str:
    """Return the remark about an answer that was not stopped; empty where the answer needs none."""
    if not answer.finish:
        return "The server ended the answer without saying why. The text so far is kept."
    if answer.complete is False:
        return "The server could not score every token of this answer; tokens without colour have no score."
    if answer.finish == "length":
        return "Cut at the longest answer that was allowed (see the settings)."
    return ""


def displayed_texts(tokens: Sequence[str], text: str) -> list[str]:
    """Divide a text among its tokens.

    Args:
        tokens: the text of each token alone; at least one token.
        text: the text that the tokens add to the answer.

    Returns:
        The displayed text of each token. Joined, the texts are `text`; the last token gets the part that fits no token.
    """
    displayed: list[str] = []
    place = 0
    for token in tokens:
        fits = text.startswith(token, place)
        displayed.append(token if fits else "")
        place += len(displayed[-1])
    displayed[-1] += text[place:]
    return displayed
