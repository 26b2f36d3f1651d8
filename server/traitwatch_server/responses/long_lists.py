"""Long lists in JSON, encoded in slices: encoding a list of a million numbers at once holds the event loop for long.

A long list is encoded part by part. In the object that carries it stands a mark. When the rest of the object has been
encoded, `splice` puts the encoded parts into the place of the mark.
"""

import re
import secrets
from collections.abc import Iterable
from typing import Any

import msgspec

from traitwatch_server.pacing import Steps

# Nobody outside of this process knows it, so that no text can hold a mark of ours.
_SECRET = secrets.token_hex(16)
_MARK = re.compile(rb'"' + _SECRET.encode() + rb':([0-9]+)"')
_ENCODER = msgspec.json.Encoder()


class LongLists:
    """The long lists of one response that wait to be spliced in."""

    def __init__(self) -> None:
        self._lists: dict[int, list[bytes]] = {}
        self._count = 0

    def add(self, parts: Iterable[list[Any]]) -> Steps[Any]:
        """Encode a list.

        Args:
            parts: the parts of the list; making and encoding one is a step.

        Returns:
            What stands for the list in an object that `splice` gets.
        """
        pieces: list[bytes] = []
        for part in parts:
            if part:
                pieces += (b"," if pieces else b"[", _ENCODER.encode(part)[1:-1])
            yield
        pieces.append(b"]" if pieces else b"[]")
        self._count += 1
        self._lists[self._count] = pieces
        return msgspec.Raw(f'"{_SECRET}:{self._count}"'.encode())

    def splice(self, body: bytes) -> list[bytes]:
        """Return an encoded object in pieces, each mark replaced by its list. The lists are forgotten then."""
        if not self._lists:
            return [body]
        pieces: list[bytes] = []
        for i, piece in enumerate(_MARK.split(body)):
            # Every second piece is the number of a mark.
            pieces += self._lists.pop(int(piece)) if i % 2 else (piece,)
        return pieces
