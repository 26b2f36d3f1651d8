"""Replies in the wire format of Anthropic's Messages API: JSON, server-sent events, errors and broken streams."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from tests.support.wire.http import Reply, Request

INPUT_TOKENS = 2700
OUTPUT_TOKENS = 6100


def scripted(*replies: Reply) -> Callable[[Request], Reply]:
    """Return a server's function that sends these replies in turn, and repeats the last one."""
    return lambda request: replies[min(request.number, len(replies) - 1)]


def error(status: int, kind: str, message: str, **headers: str) -> Reply:
    """Return an error; `retry_after="1"` becomes the header `retry-after: 1`."""
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    return Reply(body, status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})


def message(text: str, *, thinking: str | None = None, stop_reason: str = "end_turn", model: str = "claude") -> Reply:
    """Return a whole answer, unstreamed."""
    content = [{"type": "thinking", "thinking": thinking, "signature": "c2ln"}] if thinking is not None else []
    content.append({"type": "text", "text": text})
    return Reply(
        {
            **_envelope(model),
            "content": content,
            "stop_reason": stop_reason,
            "usage": {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS},
        }
    )


def streamed(text: str, *, delay: float = 0.0, **options: Any) -> Reply:
    """Return an answer as a stream. `options` are those of `events`."""
    return _stream(_wire(events(text, **options)), delay=delay)


def failing_midway(text: str, kind: str, reason: str) -> Reply:
    """Return a stream with a part of its answer and an error event."""
    failure = {"type": "error", "error": {"type": kind, "message": reason}}
    return _stream(_wire([*list(events(text))[:5], failure]))


def ending_early(text: str) -> Reply:
    """Return a stream that ends properly, but before the end of the answer."""
    return _stream(_wire(list(events(text))[:5]))


def torn(text: str) -> Reply:
    """Return a stream whose connection closes inside a chunk."""
    part = _wire(list(events(text))[:5])
    headers = {"content-type": "text/event-stream", "transfer-encoding": "chunked", "connection": "close"}
    return Reply(f"{len(part) + 100:x}\r\n".encode() + part, headers=headers)


def events(
    text: str,
    *,
    thinking: str | None = None,
    tool: str | None = None,
    stop_reason: str | None = None,
    stop_details: dict[str, Any] | None = None,
    model: str = "claude",
) -> Iterator[dict[str, Any]]:
    """Yield the events of an answer.

    Args:
        text: the text, or the JSON of the tool's input.
        thinking: the thoughts before the text, in a block of their own.
        tool: the name of the called tool; None for a text answer.
        stop_reason: `tool_use` or `end_turn` by default.
        stop_details: the details of a refusal.
        model: the model's name.
    """
    usage = {"input_tokens": INPUT_TOKENS, "output_tokens": 1}
    start = {**_envelope(model), "content": [], "stop_reason": None, "usage": usage}
    yield {"type": "message_start", "message": start}
    yield {"type": "ping"}
    index = 0
    if thinking is not None:
        yield from _block(
            index,
            {"type": "thinking", "thinking": "", "signature": ""},
            [{"type": "thinking_delta", "thinking": part} for part in _parts(thinking)]
            + [{"type": "signature_delta", "signature": "c2ln"}],
        )
        index += 1
    if tool is not None:
        block = {"type": "tool_use", "id": "toolu_1", "name": tool, "input": {}}
        yield from _block(index, block, [{"type": "input_json_delta", "partial_json": part} for part in _parts(text)])
    else:
        yield from _block(
            index, {"type": "text", "text": ""}, [{"type": "text_delta", "text": part} for part in _parts(text)]
        )
    reason = stop_reason or ("tool_use" if tool else "end_turn")
    delta = {"stop_reason": reason, "stop_sequence": None, "stop_details": stop_details}
    yield {"type": "message_delta", "delta": delta, "usage": {"output_tokens": OUTPUT_TOKENS}}
    yield {"type": "message_stop"}


def _envelope(model: str) -> dict[str, Any]:
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "stop_sequence": None}


def _block(index: int, block: dict[str, Any], deltas: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield {"type": "content_block_start", "index": index, "content_block": block}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _parts(text: str, size: int = 997) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


def _wire(stream: Any) -> bytes:
    return b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in stream)


def _stream(body: bytes, delay: float = 0.0) -> Reply:
    return Reply(body, headers={"content-type": "text/event-stream; charset=utf-8"}, delay=delay)
