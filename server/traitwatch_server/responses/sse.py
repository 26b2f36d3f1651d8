"""Server-sent events as vLLM writes them, whatever way the network cuts them up."""

import re

_END_OF_EVENT = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_DATA_LINE = re.compile(rb"^data: ?([^\r\n]*)", re.MULTILINE)


class EventSplitter:
    """Cuts a byte stream into whole events, end marks included, so that joining them gives the stream again."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take bytes; return the events that are whole now."""
        self._rest += chunk
        events = []
        start = 0
        for mark in _END_OF_EVENT.finditer(self._rest):
            events.append(self._rest[start : mark.end()])
            start = mark.end()
        self._rest = self._rest[start:]
        return events

    def rest(self) -> bytes:
        """Return what came after the last whole event."""
        return self._rest


def event_data(event: bytes) -> bytes | None:
    """Return the data of an event that has one `data:` line and perhaps an `event:` line; None for any other."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        # What vLLM's chat and completions send.
        return event[6:-2]
    found = _DATA_LINE.findall(event)
    return found[0] if len(found) == 1 and not event.startswith(b":") else None


def with_data(event: bytes, data: bytes) -> bytes:
    """Return an event with other data in its one `data:` line."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2:
        return b"data: " + data + b"\n\n"
    return _DATA_LINE.sub(lambda line: b"data: " + data, event)
