"""Takes an answer apart as a client receives it: vLLM's own part, and the scores of each choice."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.serving import Server

OURS = ("traits", "traits_complete")
# These fields differ between any two answers of vLLM, with and without our scores.
_IDENTITY = ("id", "created", "created_at", "system_fingerprint", "item_id", "call_id", "signature")
# The same fields in the bytes of an answer.
_IDENTITY_BYTES = re.compile(rb'"(' + "|".join(_IDENTITY).encode() + rb')"(: ?)("[^"]*"|[0-9.]+)')
_COMPARISONS = 25
# A test repeats a stream at most this often. It needs a stream in which vLLM's process did not stand still: vLLM joins
# the tokens of such a moment.
STREAMS = 10
# The key of a response that is one answer without choices.
ONE_ANSWER = -1


def post(server: Server, path: str, body: Mapping[str, Any], **fields: Any) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json={**body, **fields}, timeout=120)


def events(response: httpx.Response) -> list[tuple[str, str]]:
    """Return the events of a stream: the lines before the data, and the data. Comments are left out."""
    blocks = response.text.split("\n\n")
    assert blocks.pop() == "", "the stream does not end after a whole event"
    heads = [block.partition("data: ") for block in blocks if not block.startswith(":")]
    return [(head, data) for head, _, data in heads]


def own_part(response: httpx.Response) -> list[str]:
    """Return vLLM's own part of an answer as text, with masked identities; of a stream, sorted by choice.

    The events of one choice keep their order. The order of events of different choices or prompts is chance: it depends
    on vLLM's engine and on its merging of generators.
    """
    if response.headers["content-type"] == "application/json":
        return [_masked(response.text)]
    return [
        head + (_masked(data) if data.startswith("{") else data)
        for head, data in sorted(events(response), key=lambda event: _choice_of(event[1]))
    ]


def raw(response: httpx.Response) -> bytes:
    """Return the bytes of an answer with masked identities. Each run and each configuration has other identities."""
    return _IDENTITY_BYTES.sub(rb'"\1"\2"-"', response.content)


def alike(
    ours: Callable[[], httpx.Response],
    theirs: Callable[[], httpx.Response],
    part: Callable[[httpx.Response], object] = own_part,
) -> tuple[httpx.Response, httpx.Response]:
    """Ask two servers until a part of both answers is equal, at most `_COMPARISONS` times.

    When vLLM's loop is busy, vLLM joins the waiting tokens into one event. Chance also decides how the choices of a
    request share the engine's passes. Another run may be equal.
    """
    for _ in range(_COMPARISONS):
        answers = theirs(), ours()
        if part(answers[0]) == part(answers[1]):
            break
    return answers[1], answers[0]


def headers(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name not in ("date", "content-length")}


@dataclass
class ReceivedChoice:
    """One choice, as a client received it.

    Attributes:
        traits: `traits` as in an unstreamed answer. The parts of a stream are joined.
        complete: `traits_complete`.
        tokens: ids of the generated tokens, if the request asked for the ids.
        prompt: ids of the prompt's tokens, if the request asked for the ids.
        behind: for each event with tokens, the number of tokens of earlier events without a projection.
    """

    traits: dict[str, dict[str, Any]] = field(default_factory=dict)
    complete: bool | None = None
    tokens: list[int] = field(default_factory=list)
    prompt: list[int] = field(default_factory=list)
    behind: list[int] = field(default_factory=list)

    def take(self, carrier: Mapping[str, Any]) -> None:
        """Add the scores of an object that may have scores."""
        for name, part in carrier.get("traits", {}).items():
            scores = self.traits.setdefault(name, {"tokens": []})
            joined = scores["tokens"]
            assert part.get("start", 0) == len(joined), f"{name}: a part starts at {part['start']} after {len(joined)}"
            scores.update({key: value for key, value in part.items() if key != "start"})
            scores["tokens"] = joined + part["tokens"]
        if "traits_complete" in carrier:
            assert self.complete is None, "the stream has two summaries"
            self.complete = carrier["traits_complete"]

    def take_whole(self, carrier: Mapping[str, Any]) -> None:
        """Take the scores of the whole answer at the end of a stream. Assert that the parts agree with them."""
        before, self.traits = self.traits, {}
        self.take(carrier)
        for name, part in before.items():
            assert self.traits[name]["tokens"][: len(part["tokens"])] == part["tokens"], name


def received_choices(response: httpx.Response) -> dict[int, ReceivedChoice]:
    """Return the choices of an answer by index. An answer without choices is under `ONE_ANSWER`."""
    assert response.status_code == 200, response.text
    if response.headers["content-type"] == "application/json":
        return _unstreamed_choices(json.loads(response.text))
    choices: dict[int, ReceivedChoice] = {}
    for data in (json.loads(data) for _, data in events(response) if data.startswith("{")):
        if "choices" in data:
            for choice in data["choices"]:
                _take_chunk(choices.setdefault(choice["index"], ReceivedChoice()), choice, data)
        elif "response" in data:
            _take_ids(choices.setdefault(ONE_ANSWER, ReceivedChoice()), data["response"])
            if "traits" in data["response"]:
                choices[ONE_ANSWER].take_whole(data["response"])
        else:
            choices.setdefault(ONE_ANSWER, ReceivedChoice()).take(data)
    return choices


def _unstreamed_choices(answer: dict[str, Any]) -> dict[int, ReceivedChoice]:
    choices = {}
    # In a batch, the index of a choice is the number of the conversation, for any `n`. So count the choices.
    for number, choice in enumerate(answer.get("choices", [answer])):
        one = choices[number if "choices" in answer else ONE_ANSWER] = ReceivedChoice()
        one.take(choice)
        _take_ids(one, {**answer, **choice})
    return choices


def _take_ids(one: ReceivedChoice, answer: dict[str, Any]) -> None:
    one.tokens = answer.get("token_ids") or [t for m in answer.get("output_messages") or [] for t in m["tokens"]]
    one.prompt = answer.get("prompt_token_ids") or [t for m in answer.get("input_messages") or [] for t in m["tokens"]]


def _take_chunk(one: ReceivedChoice, choice: dict[str, Any], chunk: dict[str, Any]) -> None:
    prompt = choice.get("prompt_token_ids") or chunk.get("prompt_token_ids")
    one.prompt = one.prompt or prompt or []
    before = len(one.tokens)
    one.tokens += choice.get("token_ids") or []
    one.take(choice)
    with_projection = min((len(part["tokens"]) for part in one.traits.values()), default=0)
    one.behind.append(max(0, before - with_projection))


def _choice_of(data: str) -> int:
    """Return the index of the choice of an event. Return a large number for an event without exactly one choice."""
    choices = json.loads(data).get("choices", []) if data.startswith("{") else []
    return choices[0]["index"] if len(choices) == 1 else 1_000_000


def _masked(text: str) -> str:
    return json.dumps(_mask(json.loads(text)))


def _mask(value: Any) -> Any:
    if isinstance(value, dict):
        return dict(_mask_fields(value))
    return [_mask(item) for item in value] if isinstance(value, list) else value


def _mask_fields(fields: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if name in _IDENTITY and value is not None:
            yield name, "masked"
        elif name not in OURS:
            yield name, _mask(value)
