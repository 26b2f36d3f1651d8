"""Scores a pasted text. The server reads the text as a prompt and returns the projections of its tokens.

Where the visitor gives a prompt too, the text is scored as the model's answer to this prompt, in the model's own chat
template. Then the tokens get the states that they would have in an answer of the model.
"""

from dataclasses import dataclass
from typing import Any

from traitwatch_dashboards.errors import DashboardError
from traitwatch_dashboards.inspector.api.client import Server
from traitwatch_dashboards.inspector.api.traits import Trait
from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText


@dataclass(frozen=True)
class Pasted:
    """A text to score.

    Attributes:
        text: the text.
        prompt: the prompt that the text answers; empty where the text stands alone.
        raw: whether prompt and text together are the model's whole input, with special tokens, as in an event log.
    """

    text: str
    prompt: str = ""
    raw: bool = False


async def score(server: Server, model: str, pasted: Pasted, traits: tuple[Trait, ...]) -> InspectedText:
    """Return a text with its scores.

    Raises:
        DashboardError: the server refuses the request, or its response has no scores.
        httpx.HTTPError: the server does not answer.
    """
    ids, first = await _tokens(server, model, pasted)
    if first >= len(ids):
        raise DashboardError("There is nothing to score: paste a text.")
    body = {
        "model": model,
        "prompt": ids,
        "max_tokens": 1,
        "temperature": 0,
        "echo": True,
        "logprobs": 0,
        "traits": {"include": [trait.name for trait in traits], "tokens": False, "prompt": True},
    }
    reply = await server.json("/v1/completions", body)
    try:
        choice = reply["choices"][0]
        tokens = [str(token) for token in choice["logprobs"]["tokens"][first : len(ids)]]
        rows = {trait.name: list(choice["traits"][trait.name]["prompt_tokens"][first : len(ids)]) for trait in traits}
    except (KeyError, IndexError, TypeError) as error:
        raise DashboardError(f"The server's answer has no scores of the prompt (no {error}).") from error
    for row in rows.values():
        row[: _incomparable(first)] = [None] * _incomparable(first)
    answer = InspectedText(traits, model, finish="scored")
    answer.add(await _mended(server, model, tokens, ids[first:]), 0, rows)
    answer.complete = all(value is not None for row in rows.values() for value in row[_incomparable(first) :])
    if _incomparable(first):
        answer.note = (
            "The first token has no score: at the first position of the input, a model's state is unlike the state of "
            "any other token. Give a prompt, and the text is scored as an answer to it."
        )
    if not answer.complete:
        answer.note = "The server could not score every token of this text; tokens without colour have no score."
    return answer


def _incomparable(first: int) -> int:
    """Return how many tokens at the start of a text have a state that cannot be compared (0 or 1).

    Attention rests on the first position of the input, whatever token is there. The state at this position is many
    times as long as all other states, and it would dominate the mean of a short text.

    Args:
        first: position of the text's first token in the model's input.
    """
    return 1 if first == 0 else 0


async def _mended(server: Server, model: str, tokens: list[str], ids: list[int]) -> list[str]:
    """Return the displayed texts of tokens. The last token of several that form one character shows the character."""
    texts = list(tokens)
    for start, end in broken_runs(tokens):
        reply = await server.json("/detokenize", {"model": model, "tokens": ids[start:end]})
        texts[start:end] = [*[""] * (end - start - 1), _field(reply, "prompt", str)]
    return texts


def broken_runs(tokens: list[str]) -> list[tuple[int, int]]:
    """Return the start and end of each run of tokens that are only parts of a character."""
    broken = ["\ufffd" in token for token in tokens]
    starts = [i for i, is_broken in enumerate(broken) if is_broken and not (i and broken[i - 1])]
    return [(start, next((i for i in range(start, len(broken)) if not broken[i]), len(broken))) for start in starts]


async def _tokens(server: Server, model: str, pasted: Pasted) -> tuple[list[int], int]:
    """Return the token ids of prompt and text, and the position of the text's first token."""
    if pasted.raw:
        whole = {"prompt": pasted.prompt + pasted.text, "add_special_tokens": False}
        before = {"prompt": pasted.prompt, "add_special_tokens": False} if pasted.prompt else None
    elif pasted.prompt:
        asked = [{"role": "user", "content": pasted.prompt}]
        answered = [*asked, {"role": "assistant", "content": pasted.text}]
        whole = {"messages": answered, "add_generation_prompt": False, "continue_final_message": True}
        before = {"messages": asked, "add_generation_prompt": True}
    else:
        whole, before = {"prompt": pasted.text}, None
    ids = await _tokenize(server, model, whole)
    return ids, len(await _tokenize(server, model, before)) if before else 0


async def _tokenize(server: Server, model: str, body: dict[str, Any]) -> list[int]:
    tokens: list[int] = _field(await server.json("/tokenize", {"model": model, **body}), "tokens", list)
    if not all(type(token) is int for token in tokens):
        raise DashboardError("The server's answer has no tokens: is it a server of Traitwatch?")
    return tokens


def _field(reply: Any, name: str, kind: type) -> Any:
    """Return a field of a reply; raise `DashboardError` where the reply has no such field of this kind."""
    value = reply.get(name) if isinstance(reply, dict) else None
    if not isinstance(value, kind):
        raise DashboardError(f"The server's answer has no {name}: is it a server of Traitwatch?")
    return value
