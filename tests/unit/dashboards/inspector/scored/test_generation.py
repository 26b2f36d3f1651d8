"""A streamed answer: its pieces, the texts of its tokens, and its remark."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traitwatch_dashboards.inspector.api.traits import Trait
from traitwatch_dashboards.inspector.scored.generation import (
    GenerationRequest,
    Piece,
    add_piece,
    displayed_texts,
    generate,
    remark,
)
from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText

URL = "http://server:8000"


TRAIT = Trait("paternalism", 20, mean=-10.0, std=5.0, threshold=1.5)


class TestDisplayedTexts:
    def test_each_token_shows_itself(self) -> None:
        assert displayed_texts(["Hel", "lo"], "Hello") == ["Hel", "lo"]

    def test_a_stop_token_shows_nothing(self) -> None:
        assert displayed_texts(["end", "<|im_end|>"], "end") == ["end", ""]

    def test_the_last_of_several_tokens_shows_their_character(self) -> None:
        assert displayed_texts(["\ufffd"], "") == [""]
        assert displayed_texts(["\ufffd", "\ufffd"], "\N{GRINNING FACE}") == ["", "\N{GRINNING FACE}"]

    def test_text_that_was_held_back_is_not_lost(self) -> None:
        assert "".join(displayed_texts(["b"], "ab")) == "ab"

    @given(st.lists(st.text(), min_size=1), st.text())
    def test_the_joined_texts_are_the_answer(self, tokens: list[str], text: str) -> None:
        displayed = displayed_texts(tokens, text)
        assert "".join(displayed) == text
        assert len(displayed) == len(tokens)


class TestPieces:
    def test_projections_find_their_tokens_in_any_events(self) -> None:
        answer = InspectedText((TRAIT,))
        add_piece(Piece(texts=["a"]), answer)
        add_piece(Piece(texts=["b", "c"], start=0, values={"paternalism": [1.0]}), answer)
        add_piece(Piece(start=1, values={"paternalism": [2.0, None]}, finish="stop", complete=True), answer)
        assert answer.text == "abc"
        assert answer.projections == {"paternalism": [1.0, 2.0, None]}

    @pytest.mark.parametrize(
        ("finish", "complete", "part"),
        [
            ("stop", True, ""),
            ("length", True, "Cut at the longest"),
            ("stop", False, "could not score"),
            ("", None, "without saying why"),
        ],
    )
    def test_the_remark_describes_the_end_of_an_answer(self, finish: str, complete: bool | None, part: str) -> None:
        note = remark(InspectedText((TRAIT,), finish=finish, complete=complete))
        assert part in note
        assert bool(part) == bool(note)


async def test_a_stream_that_cannot_be_read_leaves_a_note() -> None:
    """Such a stream is the page of a proxy, or a response whose fields have other types."""

    class Completions:
        async def create(self, **_: object) -> object:
            raise json.JSONDecodeError("Expecting value", "<html>", 0)

    openai_client = SimpleNamespace(chat=SimpleNamespace(completions=Completions()))
    ask = GenerationRequest(SimpleNamespace(openai=openai_client, url=URL), "m", [])  # type: ignore[arg-type]
    answer = InspectedText((TRAIT,))
    assert [piece async for piece in generate(ask, answer)] == []
    assert answer.note.startswith(f"{URL} sent an answer that was not understood")
