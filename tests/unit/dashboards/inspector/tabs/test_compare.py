"""The events of the tab Compare, without a browser."""

import asyncio
from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest

from tests.support.inspected import URL, Application, kinds_of, lines_of, notes_of, page_of, values_of
from traitwatch_dashboards.inspector.api.client import Server
from traitwatch_dashboards.inspector.scored.session import VisitorSession
from traitwatch_dashboards.inspector.tabs.compare import CompareTab
from traitwatch_dashboards.inspector.tabs.presets import presets

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def application() -> Application:
    return Application("Hel", "lo", "")


@pytest.fixture
def tab(application: Application) -> Iterator[CompareTab]:
    with gr.Blocks() as blocks:
        yield CompareTab(page_of(blocks, application.server(), Server(NOWHERE)))


async def asked(
    tab: CompareTab,
    session: VisitorSession,
    text: str,
    a: dict[str, Any] | None = None,
    b: dict[str, Any] | None = None,
) -> list[dict[Any, Any]]:
    values = [*values_of(tab.forms[0], **(a or {})), *values_of(tab.forms[1], **(b or {}))]
    return [update async for update in tab.ask(session, text, *values)]


async def test_both_panes_are_asked_with_their_own_settings(tab: CompareTab, application: Application) -> None:
    session = VisitorSession()
    updates = await asked(tab, session, "Hi", {"System prompt": "Be kind."}, {"Model or adapter": "adapter"})
    by_model = {chat["model"]: [message["content"] for message in chat["messages"]] for chat in application.chats}
    assert by_model == {"base": ["Be kind.", "Hi"], "adapter": ["Hi"]}
    assert [pane.answers[0].text for pane in session.panes] == ["Hello", "Hello"]
    last = updates[-1][tab.answers]
    assert [kinds_of(last, pane)[-1] for pane in (0, 1)] == ["end", "end"]
    assert lines_of(last)[0]["panes"] == ["A", "B"]


async def test_the_scores_are_compared_at_the_end(tab: CompareTab) -> None:
    updates = await asked(tab, VisitorSession(), "Hi")
    assert updates[0][tab.table] == ""
    assert "paternalism" in updates[-1][tab.table]
    assert "difference" in updates[-1][tab.table]
    visible = [update[tab.row.stop]["visible"] for update in updates if tab.row.stop in update]
    assert visible == [True, False]


async def test_a_pane_without_a_server_shows_the_reason_and_the_other_is_answered(tab: CompareTab) -> None:
    session = VisitorSession()
    updates = await asked(tab, session, "Hi", b={"Server": NOWHERE})
    assert "No server answers" in notes_of(updates[-1][tab.answers], [1])[0]
    assert [len(pane.answers) for pane in session.panes] == [1, 0]


async def test_where_no_server_answers_nothing_is_generated(tab: CompareTab) -> None:
    (update,) = await asked(tab, VisitorSession(), "Hi", {"Server": NOWHERE}, {"Server": NOWHERE})
    assert tab.row.stop not in update
    assert len(notes_of(update[tab.answers], [0, 1])) == 2


@pytest.mark.parametrize("text", ["", " ", None])
async def test_an_empty_question_is_ignored(tab: CompareTab, text: str) -> None:
    assert await asked(tab, VisitorSession(), text) == []


async def test_enter_and_a_click_at_once_ask_one_question(tab: CompareTab, application: Application) -> None:
    session = VisitorSession()
    updates = await asyncio.gather(asked(tab, session, "Hi"), asked(tab, session, "Hi"))
    assert [bool(update) for update in updates] == [True, False]
    assert len(application.chats) == 2, "one for each pane"
    assert [pane.answers[-1].note for pane in session.panes] == ["", ""]


async def test_stop_ends_both_answers(tab: CompareTab) -> None:
    session = VisitorSession()
    values = [value for form in tab.forms for value in values_of(form)]
    answers = tab.ask(session, "Hi", *values)
    await anext(answers)
    tab.stop(session)
    await answers.aclose()  # type: ignore[attr-defined]
    assert not session.compare_running.busy


async def test_a_preset_fills_in_the_question_and_both_forms(tab: CompareTab) -> None:
    preset = presets()[0]
    question, *values = await tab.fill_in(preset)
    width = len(tab.forms[0].inputs)
    a, b = (dict(zip([c.label for c in tab.forms[0].inputs], v, strict=True)) for v in (values[:width], values[width:]))
    assert question == preset.prompt
    assert (a["Server"], a["Model or adapter"]["value"]) == (URL, "base")
    differing = {label for label in a if a[label] != b[label]}
    assert differing == {"Earlier turns", "Name of the pane"}


async def test_the_view_takes_the_colour_of_the_presets_trait_where_the_server_has_it(
    tab: CompareTab, application: Application
) -> None:
    assert lines_of(await tab.show_server(URL))[0]["focus"] == "paternalism"
    application.traits = [{**application.traits[0], "id": "deception"}]
    assert lines_of(await tab.show_server(URL))[0]["focus"] == ""


async def test_a_choice_of_models_keeps_the_chosen_model(tab: CompareTab) -> None:
    assert (await tab.offer_models(URL, "adapter"))["value"] == "adapter"
    assert (await tab.offer_models(URL, "another"))["value"] == "base"
    assert (await tab.offer_models(NOWHERE, "adapter"))["choices"] == []
