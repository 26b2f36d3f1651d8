"""A stream is compared with another stream whatever tokens share an event."""

import json
from typing import Any

import httpx
import pytest

from tests.support.answers import own_part


def chat(content: str | None, reasoning: str | None = None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": content, "reasoning": reasoning}, "finish_reason": finish, **fields}
    return {"id": "x", "choices": [choice], "usage": None}


def text_delta(delta: str, number: int) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "delta": delta, "logprobs": [], "sequence_number": number}


def arguments(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}}]}


def parts(*events: dict[str, Any]) -> list[str]:
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    return own_part(httpx.Response(200, headers={"content-type": "text/event-stream"}, text=text))


@pytest.mark.parametrize(
    ("apart", "joined"),
    [
        ([chat("a"), chat("a"), chat("b", finish="stop")], [chat("aa"), chat("b", finish="stop")]),
        ([chat(None, "a"), chat("b")], [chat("b", "a")]),
        ([chat("a", token_ids=[1]), chat("a", token_ids=[1])], [chat("aa", token_ids=[1, 1])]),
        ([text_delta("a", 1), text_delta("b", 2)], [text_delta("ab", 1)]),
        ([arguments("{"), arguments("}")], [arguments("{}")]),
    ],
    ids=["chat", "reasoning", "token ids", "responses", "tool calls"],
)
def test_joined_tokens_make_no_difference(apart: list[dict[str, Any]], joined: list[dict[str, Any]]) -> None:
    assert parts(*apart) == parts(*joined)


def test_all_else_makes_a_difference() -> None:
    assert parts(chat("a"), chat("b")) != parts(chat("a"), chat("c"))
    assert parts(chat("a")) != parts(chat("a"), chat("b"))
    assert parts(chat("a", finish="stop")) != parts(chat("a", finish="length"))
    assert parts(chat("a", token_ids=[1])) != parts(chat("a", token_ids=[2]))
    assert parts(chat("a", extra=1)) != parts(chat("a"))
    assert len(parts(chat("a"), {"choices": [], "usage": 3})) == 3
