"""Reads the body of a request, and gives vLLM the same body or one with other fields.

vLLM reads more than JSON, so a body that we do not change must reach vLLM as the client sent it. Of a body that we
change, only the fields that we read are decoded: all others stay the text that the client sent. So a prompt of a
hundred thousand tokens, or an image, costs no more than a short prompt.
"""

import json
from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope

from traitwatch_server.responses.endpoints import OBJECT

# As vLLM reads a field: "false" is false.
_BOOLEAN = TypeAdapter(bool)
_INTEGER = TypeAdapter(int)


async def receive_body(receive: Receive) -> list[Message]:
    """Receive the messages of a request body, until the last one comes or the client leaves."""
    messages = []
    while True:
        message = await receive()
        messages.append(message)
        if message["type"] != "http.request" or not message.get("more_body", False):
            return messages


def replay(messages: list[Message], receive: Receive) -> Receive:
    """Return a `receive` that gives `messages` first, and keeps none of them."""
    waiting = deque(messages)

    async def replay() -> Message:
        return waiting.popleft() if waiting else await receive()

    return replay


def with_body(scope: Scope, fields: Mapping[str, msgspec.Raw]) -> tuple[Scope, list[Message]]:
    """Return the scope and the messages of the same request with a body of these fields."""
    body = b"{%b}" % b", ".join(b"%b: %b" % (json.dumps(name).encode(), bytes(raw)) for name, raw in fields.items())
    headers = MutableHeaders(raw=list(scope["headers"]))
    headers["content-length"] = str(len(body))
    return {**scope, "headers": headers.raw}, [{"type": "http.request", "body": body, "more_body": False}]


def may_contain(body: bytes, *names: str) -> bool:
    """Tell whether a JSON text may have a field of one of these names: written out, escaped, or in UTF-16 or -32."""
    return b"\\u" in body or b"\0" in body or any(f'"{name}"'.encode() in body for name in names)


def value_of(raw: msgspec.Raw | None) -> Any:
    """Return the value of a field; None where the request has no such field.

    Raises:
        ValueError: vLLM cannot read it either.
        RecursionError: nor can it read this.
    """
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, ValueError):
        # Half a pair of surrogates, say.
        return json.loads(bytes(raw))


def is_true(value: Any) -> bool:
    """Tell whether vLLM takes the value of a field for true."""
    try:
        return _BOOLEAN.validate_python(value)
    except ValidationError:
        # vLLM refuses the value, or takes a null for its default.
        return False


def is_zero(value: Any) -> bool:
    """Tell whether vLLM takes the value of a field for the number 0."""
    try:
        return _INTEGER.validate_python(value) == 0
    except ValidationError:
        return False


def decode(body: bytes) -> dict[str, msgspec.Raw] | None:
    """Return a JSON object's fields as JSON text; None for anything else, which vLLM answers with its own error."""
    try:
        return OBJECT.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        # vLLM takes more than JSON: NaN, half a pair of surrogates, other encodings of Unicode.
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError):
            return None
    if not isinstance(fields, dict):
        return None
    return {name: msgspec.Raw(json.dumps(value).encode()) for name, value in fields.items()}
