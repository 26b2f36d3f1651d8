"""Events come out whole and unchanged, at any cut of the stream by the network."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traitwatch_server.responses.attach import EventSplitter, event_data, with_data

STREAM = b'data: {"a": "\xc3\xa9\\n"}\n\n: comment\n\ndata: 1\r\n\r\nevent: x\ndata: 2\n\ndata: [DONE]\n\n'


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_any_cut_gives_the_same_events(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    splitter = EventSplitter()
    events = [e for a, b in itertools.pairwise(edges) for e in splitter.feed(STREAM[a:b])]
    whole = EventSplitter().feed(STREAM)
    assert events == whole
    assert len(whole) == 5
    assert b"".join(events) == STREAM
    assert splitter.rest() == b""


def test_an_incomplete_event_is_kept_for_later() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"data: 1\n\ndata: 2\n") == [b"data: 1\n\n"]
    assert splitter.rest() == b"data: 2\n"


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b'data: {"a": 1}\n\n', b'{"a": 1}'),
        (b"data:[DONE]\r\n\r\n", b"[DONE]"),
        (b": keep-alive\n\n", None),
        (b"event: x\ndata: 2\n\n", b"2"),
        (b"data: 1\ndata: 2\n\n", None),
    ],
)
def test_only_an_event_with_one_data_line_has_data(event: bytes, data: bytes | None) -> None:
    assert event_data(event) == data


@pytest.mark.parametrize(
    ("event", "rewritten"),
    [
        (b'data: {"a": 1}\n\n', b'data: {"\\n": 2}\n\n'),
        (b'event: delta\r\ndata: {"a": 1}\r\n\r\n', b'event: delta\r\ndata: {"\\n": 2}\r\n\r\n'),
    ],
)
def test_the_data_of_an_event_is_replaced_and_the_other_lines_stay(event: bytes, rewritten: bytes) -> None:
    assert with_data(event, b'{"\\n": 2}') == rewritten
