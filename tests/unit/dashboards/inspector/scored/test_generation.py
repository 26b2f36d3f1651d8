"""An answer that streams: its pieces, the texts of its tokens, and its remark."""

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
    generate,
    remark,
    shown_texts,
)
from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText

URL = "http://server:8000"


TRAIT = Trait("paternalism", 20, mean=-10.0, std=5.0, threshold=1.5)


class TestShownTexts:
    def test_each_token_shows_itself(self) -> None:
        assert shown_texts(["Hel", "lo"], "Hello") == ["Hel", "lo"]

    def test_a_stop_token_shows_nothing(self) -> None:
        assert shown_texts(["end", "<|im_end|>"], "end") == ["end", ""]

    def test_a_character_of_several_tokens_is_shown_with_the_last(self) -> None:
        assert shown_texts(["\ufffd"], "") == [""]
        assert shown_texts(["\ufffd", "\ufffd"], "\N{GRINNING FACE}") == ["", "\N{GRINNING FACE}"]

    def test_text_that_was_held_back_is_not_lost(self) -> None:
        assert "".join(shown_texts(["b"], "ab")) == "ab"

    @given(st.lists(st.text(), min_size=1), st.text())
    def test_joined_it_is_the_text(self, tokens: list[str], text: str) -> None:
        shown = shown_texts(tokens, text)
        assert "".join(shown) == text
        assert len(shown) == len(tokens)


class TestPieces:
    def test_projections_find_their_places_however_they_come(self) -> None:
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
    def test_what_a_reader_should_know_is_said(self, finish: str, complete: bool | None, part: str) -> None:
        told = remark(InspectedText((TRAIT,), finish=finish, complete=complete))
        assert part in told
        assert bool(part) == bool(told)


async def test_a_stream_that_cannot_be_read_leaves_a_note() -> None:
    """As a proxy's page is, or an answer whose fields are others."""

    class Completions:
        async def create(self, **_: object) -> object:
            raise json.JSONDecodeError("Expecting value", "<html>", 0)

    openai_client = SimpleNamespace(chat=SimpleNamespace(completions=Completions()))
    ask = GenerationRequest(SimpleNamespace(openai=openai_client, url=URL), "m", [])  # type: ignore[arg-type]
    answer = InspectedText((TRAIT,))
    assert [piece async for piece in generate(ask, answer)] == []
    assert answer.note.startswith(f"{URL} sent an answer that was not understood")
