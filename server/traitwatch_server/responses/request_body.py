"""Reads the body of a request, and gives vLLM the same body or one with other fields.

vLLM reads more than JSON, so a body that we do not change must reach vLLM as the client sent it.
"""

import json
from typing import Any

import msgspec
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope

from traitwatch_server.responses.schema import Json

# As vLLM reads a field: "false" is false.
_BOOLEAN = TypeAdapter(bool)


async def receive_body(receive: Receive) -> list[Message]:
    """Receive the messages of a request body, until the last one comes or the client leaves."""
    messages = []
    while True:
        message = await receive()
        messages.append(message)
        if message["type"] != "http.request" or not message.get("more_body", False):
            return messages


def replay(messages: list[Message], receive: Receive) -> Receive:
    """Return a `receive` that gives `messages` first."""
    waiting = iter(messages)

    async def replay() -> Message:
        for message in waiting:
            return message
        return await receive()

    return replay


def with_body(scope: Scope, fields: Json) -> tuple[Scope, list[Message]]:
    """Return the scope and the messages of the same request with a body of these fields."""
    body = json.dumps(fields).encode()
    headers = MutableHeaders(raw=list(scope["headers"]))
    headers["content-length"] = str(len(body))
    return {**scope, "headers": headers.raw}, [{"type": "http.request", "body": body, "more_body": False}]


def may_contain(body: bytes, *names: str) -> bool:
    """Tell whether a JSON text may have a field of one of these names: written out, escaped, or in UTF-16 or -32."""
    return b"\\u" in body or b"\0" in body or any(f'"{name}"'.encode() in body for name in names)


def is_true(value: Any) -> bool:
    """Tell whether vLLM takes the value of a field for true."""
    try:
        return _BOOLEAN.validate_python(value)
    except ValidationError:
        # vLLM refuses the value, or takes a null for its default.
        return False


def decode(body: bytes) -> Json | None:
    """Return a JSON object's fields; None for anything else, which vLLM answers with its own error."""
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        # vLLM takes more than JSON: NaN, half a pair of surrogates, other encodings of Unicode.
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError):
            return None
    return fields if isinstance(fields, dict) else None
