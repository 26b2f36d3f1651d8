"""The files that a view saves, and the notice where it has none."""

import json

import pytest

from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText
from traitwatch_dashboards.inspector.scored.session import VisitorSession
from traitwatch_dashboards.inspector.scored.transcript import Message, Transcript
from traitwatch_dashboards.inspector.tabs import saving


def test_panes_with_an_answer_are_saved() -> None:
    answer = InspectedText((), "m", ["x"], finish="stop")
    session = VisitorSession(panes=[Transcript("A", [Message("assistant", scored=answer)]), Transcript("B")])
    file = json.loads(saving.file_of("json", lambda held: held.panes, session))
    assert [pane["title"] for pane in json.loads(file["text"])["panes"]] == ["A"]


def test_an_empty_view_gives_a_notice_and_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    notices: list[str] = []
    monkeypatch.setattr("gradio.Info", notices.append)
    assert saving.file_of("csv", lambda held: [held.chat], VisitorSession()) == ""
    assert "nothing to save" in notices[0]
