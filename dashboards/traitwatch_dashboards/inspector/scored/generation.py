"""Generates one answer and tells it piece by piece, with the projections that the server sends along."""

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
    """What is asked of which server.

    Attributes:
        server: the server.
        model: the model or adapter.
        messages: the conversation so far, the question last.
        temperature: of sampling.
        top_p: of sampling.
        max_tokens: the longest answer.
    """

    server: Server
    model: str
    messages: list[dict[str, str]]
    temperature: float = 0.7
    top_p: float = 0.9
    max_tokens: int = 400


@dataclass(frozen=True)
class Piece:
    """What one event of the stream adds.

    Attributes:
        texts: what its tokens show.
        start: place of the first of its projections in the answer.
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


async def generate(ask: GenerationRequest, answer: InspectedText) -> AsyncGenerator[Piece]:
    """Generate an answer into `answer`, and yield each piece of it.

    What goes wrong ends it with a note that says what to do; what had come stays.
    """
    try:
        stream: Any = await ask.server.openai.chat.completions.create(
            model=ask.model,
            messages=ask.messages,  # type: ignore[arg-type]
            temperature=ask.temperature,
            top_p=ask.top_p,
            max_tokens=ask.max_tokens,
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
        answer.note = problem(error, ask.server.url, answering=bool(answer.texts))
        return
    except Exception as error:
        # A stream that is none, or fields that are others: the reader must see that the answer has broken off.
        logger.exception("The answer of %s could not be read.", ask.server.url)
        answer.note = problem(error, ask.server.url)
        return
    answer.note = remark(answer)


def piece_of(choice: Any) -> Piece:
    """Return what a choice of a stream's event adds."""
    delta = choice.delta
    text = (getattr(delta, "reasoning", None) or "") + (delta.content or "")
    logprobs = choice.logprobs.content if choice.logprobs is not None else None
    tokens = [entry.token for entry in logprobs or ()]
    extra = choice.model_extra or {}
    fields: dict[str, dict[str, Any]] = extra.get("traits") or {}
    values = {name: told["tokens"] for name, told in fields.items() if told.get("tokens")}
    starts = [told.get("start", 0) for told in fields.values() if told.get("tokens")]
    return Piece(
        texts=shown_texts(tokens, text) if tokens else [text] if text else [],
        start=starts[0] if starts else 0,
        values=values,
        summaries={name: summary_of(told) for name, told in fields.items() if "layer" in told},
        finish=choice.finish_reason or "",
        complete=extra.get("traits_complete"),
    )


def add_piece(piece: Piece, answer: InspectedText) -> None:
    """Put a piece into its answer."""
    answer.add(piece.texts, piece.start, piece.values)
    answer.summaries.update(piece.summaries)
    answer.finish = piece.finish or answer.finish
    answer.complete = piece.complete if piece.complete is not None else answer.complete


def remark(answer: InspectedText) -> str:
    """Return what a reader should know of an answer that ended by itself; empty where there is nothing."""
    if not answer.finish:
        return "The server ended the answer without saying why. What came is kept."
    if answer.complete is False:
        return "The server could not score every token of this answer; those without colour have no score."
    if answer.finish == "length":
        return "Cut at the longest answer that was allowed (see the settings)."
    return ""


def shown_texts(tokens: Sequence[str], text: str) -> list[str]:
    """Share a text out among its tokens.

    Args:
        tokens: the tokens, as each reads alone; at least one.
        text: what they add to the answer.

    Returns:
        What each token shows. Joined, it is `text`: what fits no token is shown with the last one.
    """
    shown: list[str] = []
    place = 0
    for token in tokens:
        fits = text.startswith(token, place)
        shown.append(token if fits else "")
        place += len(shown[-1])
    shown[-1] += text[place:]
    return shown
