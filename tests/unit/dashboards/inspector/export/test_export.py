"""The files that a view saves: JSON, CSV and a page."""

import csv
import io
import json

import pytest

from tests.support.inspected_text import TRAIT, answered
from traitwatch_dashboards.inspector.export.export import as_csv, as_json, as_page, exported
from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText
from traitwatch_dashboards.inspector.scored.transcript import Message, Transcript

HOSTILE = "<script>alert(1)</script>"


class TestFiles:
    def test_json_holds_everything(self) -> None:
        pane = Transcript("A", [Message("user", "q"), Message("assistant", scored=answered(-10.0, -5.0, None))])
        saved = json.loads(as_json([pane]))
        scored = saved["panes"][0]["messages"][1]["scored"]
        assert scored["tokens"] == ["t0 ", "t1 ", "t2 "]
        assert scored["traits"]["paternalism"]["projections"] == [-10.0, -5.0, None]
        assert scored["traits"]["paternalism"]["token_z"] == [0.0, 1.0, None]
        assert scored["traits"]["bare"]["calibration"] is None

    def test_each_answer_is_saved_with_the_model_that_gave_it(self) -> None:
        answers = [InspectedText((TRAIT,), model, ["x"], finish="stop") for model in ("base", "adapter")]
        pane = Transcript("A", [Message("assistant", scored=answer) for answer in answers])
        (saved,) = json.loads(as_json([pane]))["panes"]
        assert [message["scored"]["model"] for message in saved["messages"]] == ["base", "adapter"]
        page = as_page([pane])
        assert "assistant · base" in page
        assert "assistant · adapter" in page

    def test_csv_has_a_row_for_each_token_with_any_text(self) -> None:
        texts = ['say "hi",', "\n", ""]
        pane = Transcript("A", [Message("assistant", scored=answered(-10.0, -5.0, None, texts=texts))])
        rows = list(csv.DictReader(io.StringIO(as_csv([pane]))))
        assert [row["text"] for row in rows] == texts
        assert [row["paternalism_z"] for row in rows] == ["0.0", "1.0", ""]

    def test_the_page_escapes_texts_loads_nothing_and_runs_nothing(self) -> None:
        answer = answered(-10.0, 5.0, None, texts=[HOSTILE, "</div>", ""])
        answer.note = answer.model = HOSTILE
        pane = Transcript(HOSTILE, [Message("user", HOSTILE), Message("assistant", scored=answer)])
        page = as_page([pane, Transcript("B $x", pane.messages)])
        assert "<script" not in page
        assert "&lt;script&gt;" in page
        assert "default-src 'none'" in page
        assert 'src="' not in page
        assert "<link" not in page.replace('<link rel="icon" href="data:,">', "")

    @pytest.mark.parametrize("kind", ["json", "csv", "html"])
    def test_a_file_has_name_and_type(self, kind: str) -> None:
        pane = Transcript("A", [Message("assistant", scored=answered(-10.0, None))])
        file = json.loads(exported(kind, [pane]))
        assert file["name"] == f"traitwatch.{kind}"
        assert kind in file["type"]
