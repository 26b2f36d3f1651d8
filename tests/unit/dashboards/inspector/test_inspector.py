"""The inspector's own parts, without browser and server: tokens, journals, spikes, tables, files, messages."""

import csv
import io
import json
from types import SimpleNamespace

import httpx
import httpx2
import openai
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tests.support.paths import ROOT
from traitwatch_dashboards.errors import DashboardError
from traitwatch_dashboards.inspector.api.problems import message_of, problem, problem_of_status
from traitwatch_dashboards.inspector.api.traffic import Counts, TrafficSample, parse_sample, recent
from traitwatch_dashboards.inspector.api.traits import Trait, trait_of
from traitwatch_dashboards.inspector.command import keys_of, login, ui
from traitwatch_dashboards.inspector.export.export import as_csv, as_json, as_page, exported
from traitwatch_dashboards.inspector.scored.generation import (
    GenerationRequest,
    Piece,
    add_piece,
    generate,
    remark,
    shown_texts,
)
from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText, Summary
from traitwatch_dashboards.inspector.scored.journal import Journal
from traitwatch_dashboards.inspector.scored.scoring import Pasted, broken_runs
from traitwatch_dashboards.inspector.scored.spike_events import choices_of, pasted_event
from traitwatch_dashboards.inspector.scored.tables import comparison, comparison_html
from traitwatch_dashboards.inspector.scored.transcript import Message, Transcript, format_examples, parse_examples
from traitwatch_dashboards.inspector.tabs.presets import presets

URL = "http://server:8000"
TRAIT = Trait("paternalism", 20, mean=-10.0, std=5.0, threshold=1.5)
BARE = Trait("bare", 20)
HOSTILE = "<script>alert(1)</script>"


def answered(*projections: float | None, texts: list[str] | None = None) -> InspectedText:
    answer = InspectedText((TRAIT, BARE), finish="stop")
    row = list(projections)
    answer.add(texts or [f"t{i} " for i in range(len(row))], 0, {"paternalism": row, "bare": row})
    return answer


def lines(journal: Journal) -> list[dict[str, object]]:
    return [json.loads(line) for line in str(journal).splitlines()]


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


class TestAnswers:
    def test_projections_find_their_places_however_they_come(self) -> None:
        answer = InspectedText((TRAIT,))
        add_piece(Piece(texts=["a"]), answer)
        add_piece(Piece(texts=["b", "c"], start=0, values={"paternalism": [1.0]}), answer)
        add_piece(Piece(start=1, values={"paternalism": [2.0, None]}, finish="stop", complete=True), answer)
        assert answer.text == "abc"
        assert answer.projections == {"paternalism": [1.0, 2.0, None]}

    def test_the_servers_summary_goes_before_our_own(self) -> None:
        answer = answered(-10.0, 0.0, None)
        assert answer.summary(TRAIT) == Summary(-5.0, 1.0, 2.0, ())
        answer.summaries["paternalism"] = Summary(1.0, 2.0, 3.0)
        assert answer.summary(TRAIT).z == 2.0

    def test_an_uncalibrated_trait_has_a_mean_and_no_z(self) -> None:
        assert answered(1.0, 3.0, None).summary(BARE) == Summary(2.0, None, None)

    def test_an_answer_without_states_has_no_summary(self) -> None:
        assert answered(None).summary(TRAIT) == Summary(None, None, None)

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


class TestJournal:
    def test_it_only_grows(self) -> None:
        journal = Journal(("A", "B"), (TRAIT,))
        before = str(journal)
        journal.answer((TRAIT,), 1)
        journal.add(["a"], 0, {}, 1)
        middle = journal.news()
        journal.add(["b"], 0, {"paternalism": [1.0]}, 1)
        assert journal.grown
        after = journal.news()
        assert middle.startswith(before)
        assert after.startswith(middle)
        assert not journal.grown

    def test_what_comes_together_is_one_line_in_the_order_of_the_traits(self) -> None:
        journal = Journal(traits=(TRAIT, BARE))
        journal.answer((TRAIT, BARE))
        journal.add(["a"], 0, {})
        journal.add(["b"], 0, {"bare": [0.5], "paternalism": [1.23456]})
        journal.add(["c"], 1, {"bare": [None], "paternalism": [2.0]})
        (added,) = [line for line in lines(journal) if line["k"] == "add"]
        assert added["texts"] == ["a", "b", "c"]
        assert added["start"] == 0
        assert added["rows"] == [[1.235, 2.0], [0.5, None]]

    def test_projections_that_leave_a_gap_begin_a_line(self) -> None:
        journal = Journal(traits=(TRAIT,))
        journal.answer((TRAIT,))
        journal.add(["a", "b", "c"], 0, {"paternalism": [1.0]})
        journal.add([], 2, {"paternalism": [3.0]})
        added = [(line["start"], line["rows"]) for line in lines(journal) if line["k"] == "add"]
        assert added == [(0, [[1.0]]), (2, [[3.0]])]

    def test_a_text_with_line_breaks_stays_one_line(self) -> None:
        journal = Journal()
        journal.message("user", "one\ntwo\u2028three")
        assert [line for line in str(journal).split("\n") if line][-1].count("two") == 1

    def test_a_failure_is_told_as_one(self) -> None:
        journal = Journal(traits=(TRAIT,))
        answer = InspectedText((TRAIT,), note="gone")
        journal.answer((TRAIT,))
        journal.end(answer)
        assert lines(journal)[-1] == {"k": "note", "p": 0, "text": "gone", "bad": True}


class TestTranscript:
    def test_examples_are_read_as_they_are_written(self) -> None:
        turns = [{"role": "user", "content": "a: b\n\nc"}, {"role": "assistant", "content": "yes"}]
        assert [(m.role, m.text) for m in parse_examples(format_examples(turns))] == [
            ("user", "a: b\n\nc"),
            ("assistant", "yes"),
        ]

    def test_a_question_without_an_answer_is_not_sent_again(self) -> None:
        transcript = Transcript(
            messages=[
                Message("system", "s"),
                Message("user", "lost"),
                Message("assistant", scored=InspectedText((TRAIT,))),
                Message("user", "now"),
                Message("assistant", scored=InspectedText((TRAIT,))),
            ]
        )
        assert transcript.sent()[:1] == [{"role": "system", "content": "s"}]
        before_the_answer = Transcript(messages=transcript.messages[:-1])
        assert [m["content"] for m in before_the_answer.sent()] == ["s", "now"]

    def test_presets_differ_in_their_examples_alone(self) -> None:
        for preset in presets():
            a, b = map(parse_examples, preset.examples)
            assert [m.text for m in a if m.role == "user"] == [m.text for m in b if m.role == "user"]
            assert [m.text for m in a if m.role == "assistant"] != [m.text for m in b if m.role == "assistant"]
            assert preset.prompt


class TestFiles:
    def test_json_holds_everything(self) -> None:
        pane = Transcript("A", [Message("user", "q"), Message("assistant", scored=answered(-10.0, -5.0, None))])
        told = json.loads(as_json([pane]))
        scored = told["panes"][0]["messages"][1]["scored"]
        assert scored["tokens"] == ["t0 ", "t1 ", "t2 "]
        assert scored["traits"]["paternalism"]["projections"] == [-10.0, -5.0, None]
        assert scored["traits"]["paternalism"]["token_z"] == [0.0, 1.0, None]
        assert scored["traits"]["bare"]["calibration"] is None

    def test_each_answer_is_saved_with_the_model_that_gave_it(self) -> None:
        answers = [InspectedText((TRAIT,), model, ["x"], finish="stop") for model in ("base", "adapter")]
        pane = Transcript("A", [Message("assistant", scored=answer) for answer in answers])
        (told,) = json.loads(as_json([pane]))["panes"]
        assert [message["scored"]["model"] for message in told["messages"]] == ["base", "adapter"]
        page = as_page([pane])
        assert "assistant · base" in page
        assert "assistant · adapter" in page

    def test_csv_has_a_row_a_token_whatever_it_says(self) -> None:
        texts = ['say "hi",', "\n", ""]
        pane = Transcript("A", [Message("assistant", scored=answered(-10.0, -5.0, None, texts=texts))])
        rows = list(csv.DictReader(io.StringIO(as_csv([pane]))))
        assert [row["text"] for row in rows] == texts
        assert [row["paternalism_z"] for row in rows] == ["0.0", "1.0", ""]

    def test_the_page_escapes_loads_nothing_and_runs_nothing(self) -> None:
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


class TestTables:
    def test_two_texts_are_compared_trait_by_trait(self) -> None:
        table = comparison([("A", answered(-5.0, None)), ("B", answered(-15.0, None))])
        row = table[table["trait"] == "paternalism"].iloc[0]
        assert (row["mean z, A"], row["mean z, B"], row["difference"]) == (1.0, -1.0, 2.0)

    def test_a_trait_that_one_of_them_lacks_is_left_out(self) -> None:
        other = InspectedText((BARE,), finish="stop")
        assert list(comparison([("A", answered(-5.0)), ("B", other)])["trait"]) == ["bare"]

    @pytest.mark.parametrize("name", ["baseline", ""])
    def test_two_texts_of_one_name_are_told_apart(self, name: str) -> None:
        row = comparison([(name, answered(-5.0, None)), (name, answered(-15.0, None))]).iloc[0]
        assert (row[f"mean z, {f'{name} A'.strip()}"], row[f"mean z, {f'{name} B'.strip()}"]) == (1.0, -1.0)

    def test_its_html_is_escaped(self) -> None:
        assert "<script" not in comparison_html([(HOSTILE, answered(-5.0)), ("B", answered(-5.0))])


async def test_a_stream_that_cannot_be_read_leaves_a_note() -> None:
    """As a proxy's page is, or an answer whose fields are others."""

    class Completions:
        async def create(self, **_: object) -> object:
            raise json.JSONDecodeError("Expecting value", "<html>", 0)

    openai_client = SimpleNamespace(chat=SimpleNamespace(completions=Completions()))
    ask = GenerationRequest(SimpleNamespace(openai=openai_client, url=URL), "m", [])  # type: ignore[arg-type]
    answer = InspectedText((TRAIT,))
    assert [piece async for piece in generate(ask, answer)] == []
    assert answer.note.startswith(f"{URL} answered something that was not understood")


EVENT = {"event": "spike", "trait": "paternalism", "prompt": "<|im_start|>user\nq", "text": "a", "peak_z": 4.2}


class TestSpikeEvents:
    def test_a_line_of_the_log_is_scored_raw(self) -> None:
        assert pasted_event(Pasted(json.dumps(EVENT))) == Pasted("a", "<|im_start|>user\nq", raw=True)

    def test_a_line_without_text_says_how_to_log_it(self) -> None:
        with pytest.raises(DashboardError, match="--traits-events-text"):
            pasted_event(Pasted('{"event": "spike"}'))

    @pytest.mark.parametrize("text", ["{not json", '{"a": 1}', "plain"])
    def test_any_other_text_is_itself(self, text: str) -> None:
        assert pasted_event(Pasted(text, "p")) == Pasted(text, "p")

    def test_only_events_with_texts_can_be_chosen(self) -> None:
        assert len(choices_of([EVENT, {"event": "spike", "trait": "x"}])) == 1


def test_runs_of_broken_tokens_are_found() -> None:
    assert broken_runs(["a", "\ufffd", "\ufffd", "b", "\ufffd"]) == [(1, 3), (4, 5)]


class TestLive:
    METRICS = """
# TYPE traitwatch_responses counter
traitwatch_responses_total{engine="0",trait="a"} 10.0
traitwatch_responses_total{engine="1",trait="a"} 10.0
# TYPE traitwatch_responses_over_threshold counter
traitwatch_responses_over_threshold_total{engine="0",trait="a"} 5.0
# TYPE traitwatch_response_z counter
traitwatch_response_z_total{engine="0",trait="a",sign="positive"} 30.0
traitwatch_response_z_total{engine="1",trait="a",sign="negative"} 10.0
# TYPE traitwatch_drift gauge
traitwatch_drift{engine="0",trait="a"} 1.0
traitwatch_drift{engine="1",trait="a"} -2.0
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} 3.0
"""

    def test_engines_add_up(self) -> None:
        seen = parse_sample(self.METRICS, 1.0)
        assert seen.traits["a"].mean_z == 1.0
        assert seen.traits["a"].spike_rate == 0.25
        assert seen.running == 3.0
        assert seen.drift == {"a": -2.0}

    def test_what_lies_between_two_samples_is_told(self) -> None:
        samples = [
            TrafficSample(0.0, {"a": Counts(10, 0, 0, 10.0)}),
            TrafficSample(10.0, {"a": Counts(11, 0, 0, 99.0)}),
            TrafficSample(30.0, {"a": Counts(14, 0, 0, 2.0)}),
            TrafficSample(60.0, {"a": Counts(14, 0, 0, 2.0)}),
        ]
        assert [(r.time, r.mean_z) for r in recent(samples)] == [(30.0, {"a": -2.0})]

    def test_a_restart_begins_anew(self) -> None:
        assert Counts(2, 1, 1, 4.0).since(Counts(10, 3, 3, 1.0)).mean_z == 2.0


def test_the_live_tab_tells_from_when_on_it_looks() -> None:
    pytest.importorskip("gradio")
    from traitwatch_dashboards.inspector.api.client import Server
    from traitwatch_dashboards.inspector.app import blocks
    from traitwatch_dashboards.inspector.tabs.page import Fleet

    page = blocks(Fleet([Server("http://127.0.0.1:1")]))
    told = " ".join(str(made["props"].get("value")) for made in page.get_config_file()["components"])
    assert "<i>lately</i>: since you opened this tab, at most 5 minutes" in told
    assert "Since you opened this tab, in steps" in told
    assert "when responses have ended<br>since you opened this tab" in told


class TestProblems:
    def test_each_says_what_to_do(self) -> None:
        request = httpx2.Request("POST", URL)
        refused = httpx2.Response(401, request=request, json={"error": {"message": "no"}})
        told = {
            "gone": problem(httpx.ConnectError("refused"), URL),
            "gone too": problem(openai.APIConnectionError(request=request), URL),
            "key": problem(openai.AuthenticationError("no", response=refused, body=None), URL),
            "slow": problem(httpx.ReadTimeout("slow"), URL),
            "lost": problem(httpx2.RemoteProtocolError("closed"), URL, answering=True),
        }
        assert "traitwatch serve" in told["gone"]
        assert "traitwatch serve" in told["gone too"]
        assert "--api-key" in told["key"]
        assert "try again" in told["slow"]
        assert "What came is kept" in told["lost"]

    def test_the_servers_own_words_are_passed_on(self) -> None:
        assert message_of('{"error": {"message": "too long"}}') == "too long"
        assert message_of('{"detail": "Not Found"}') == "Not Found"
        assert message_of("plain") == "plain"
        assert "too long" in problem_of_status(400, "too long", URL)
        assert "500" in problem_of_status(500, "", URL)

    def test_a_list_of_something_else_is_refused(self) -> None:
        with pytest.raises(DashboardError, match="no trait"):
            trait_of({"name": "x"})


class TestCommand:
    def test_one_key_serves_all_and_several_one_each(self) -> None:
        assert keys_of(("a", "b"), ()) == [None, None]
        assert keys_of(("a", "b"), ("k",)) == ["k", "k"]
        assert keys_of(("a", "b"), ("k", "l")) == ["k", "l"]
        with pytest.raises(DashboardError, match="3 API keys for 2 servers"):
            keys_of(("a", "b"), ("k", "l", "m"))

    def test_a_login_is_user_and_password(self) -> None:
        assert login("ada:love:lace") == ("ada", "love:lace")
        assert login(None) is None
        for wrong in ("ada", ":x", "ada:"):
            with pytest.raises(DashboardError, match="USER:PASSWORD"):
                login(wrong)

    @pytest.mark.parametrize("url", ["localhost:8000", "http://localhost:80a0", "ftp://host", "http://"])
    def test_a_wrong_address_is_told_at_once(self, url: str) -> None:
        pytest.importorskip("gradio")
        result = CliRunner().invoke(ui, ["--url", url])
        assert result.exit_code == 1
        assert "is not an address" in result.output


def test_nothing_of_the_page_is_loaded_from_elsewhere() -> None:
    assets = ROOT / "dashboards" / "traitwatch_dashboards" / "inspector" / "assets"
    for name in ("view.js", "plot.js", "page.js", "style.css", "../tabs/traits.html", "../export/shared.html"):
        text = (assets / name).read_text()
        assert "https://" not in text
        assert "innerHTML" not in text


def test_the_page_carries_our_icon_and_nothing_of_gradios_own_adverts() -> None:
    pytest.importorskip("gradio")
    from fastapi.testclient import TestClient

    from traitwatch_dashboards.inspector.api.client import Server
    from traitwatch_dashboards.inspector.app import application

    page = TestClient(application([Server("http://127.0.0.1:1", "a-secret")])).get("/")
    assert page.status_code == 200
    assert '<link rel="icon" type="image/svg+xml" href="data:' in page.text
    assert "og:title" not in page.text
    assert "twitter:" not in page.text
    assert "Traitwatch inspector" in page.text
    assert "a-secret" not in page.text


def test_the_page_gives_a_visitor_no_second_session() -> None:
    """What is said while the page loads would be forgotten with the first."""
    gr = pytest.importorskip("gradio")
    from traitwatch_dashboards.inspector.api.client import Server
    from traitwatch_dashboards.inspector.app import blocks
    from traitwatch_dashboards.inspector.tabs.page import Fleet

    page = blocks(Fleet([Server("http://127.0.0.1:1")]))
    giving = [fn for fn in page.fns.values() if any(isinstance(made, gr.State) for made in fn.outputs)]
    assert giving
    held = object()
    assert all(fn.inputs == fn.outputs and fn.fn is not None and fn.fn(held) is held for fn in giving)


def test_reports_are_for_those_who_have_logged_in() -> None:
    pytest.importorskip("gradio")
    from fastapi.testclient import TestClient

    from traitwatch_dashboards.inspector.api.client import Server
    from traitwatch_dashboards.inspector.app import application

    client = TestClient(application([Server("http://127.0.0.1:1")], auth=("ada", "lovelace")), base_url="https://page")
    assert client.get("/traitwatch/report/0/paternalism").status_code == 401
    assert client.post("/login", data={"username": "ada", "password": "wrong"}).status_code == 400
    assert client.get("/traitwatch/report/0/paternalism").status_code == 401
    assert client.post("/login", data={"username": "ada", "password": "lovelace"}).status_code == 200
    report = client.get("/traitwatch/report/0/paternalism")
    assert report.status_code == 404
    assert "No server answers" in report.text
