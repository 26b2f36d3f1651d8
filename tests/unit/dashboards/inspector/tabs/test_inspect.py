"""The events of the tab Inspect, without a browser."""

import json
from collections.abc import Iterator

import gradio as gr
import httpx
import pytest

from tests.support.inspected import URL, Application, kinds_of, lines_of, notes_of, page_of
from traitwatch_dashboards.inspector.api.client import Server
from traitwatch_dashboards.inspector.scored.session import VisitorSession
from traitwatch_dashboards.inspector.tabs.inspect import InspectTab

NOWHERE = "http://127.0.0.1:1"
SPIKE = {"event": "spike", "trait": "paternalism", "time": "2026-11-30T12:00:00Z", "peak_z": 4.2}


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
def tab(application: Application) -> Iterator[InspectTab]:
    with gr.Blocks() as blocks:
        yield InspectTab(page_of(blocks, application.server(), Server(NOWHERE)))


async def test_a_text_is_scored_except_its_first_token(tab: InspectTab) -> None:
    session = VisitorSession()
    update = await tab.score_texts(session, URL, None, "abc", "", "", "", False)
    (pane,) = session.inspected
    assert pane.answers[0].text == "abc"
    assert pane.answers[0].projections == {"paternalism": [None, -5.0, -5.0]}
    assert kinds_of(update[tab.texts]) == ["answer", "add", "end", "note"]
    assert "paternalism" in update[tab.table]


async def test_a_text_with_a_prompt_is_scored_as_its_answer(tab: InspectTab) -> None:
    session = VisitorSession()
    await tab.score_texts(session, URL, "adapter", "abc", "question", "", "", False)
    (pane,) = session.inspected
    assert [message.content for message in pane.messages] == ["question", "abc"]
    assert pane.answers[0].projections == {"paternalism": [-5.0, -5.0, -5.0]}
    assert pane.model == "adapter"


async def test_two_texts_are_compared(tab: InspectTab) -> None:
    session = VisitorSession()
    update = await tab.score_texts(session, URL, None, "abc", "q", "de", "q", False)
    assert [pane.title for pane in session.inspected] == ["A", "B"]
    assert "difference" in update[tab.table]
    assert lines_of(update[tab.texts])[0]["panes"] == ["A", "B"]


async def test_without_a_text_the_view_asks_for_one(tab: InspectTab) -> None:
    session = VisitorSession()
    await tab.score_texts(session, URL, None, "abc", "", "", "", False)
    update = await tab.score_texts(session, URL, None, " ", None, None, None, None)
    assert notes_of(update[tab.texts]) == ["Paste a text first."]
    assert (session.inspected, update[tab.table]) == ([], "")


async def test_an_event_without_a_text_is_refused(tab: InspectTab) -> None:
    update = await tab.score_texts(VisitorSession(), URL, None, json.dumps(SPIKE), "", "", "", False)
    assert "--traits-events-text" in notes_of(update[tab.texts])[0]


async def test_a_server_that_cannot_score_shows_the_reason(tab: InspectTab, application: Application) -> None:
    gone = await tab.score_texts(VisitorSession(), NOWHERE, None, "abc", "", "", "", False)
    assert "No server answers" in notes_of(gone[tab.texts])[0]
    application.traits = []
    without = await tab.score_texts(VisitorSession(), URL, None, "abc", "", "", "", False)
    assert "no traits loaded" in notes_of(without[tab.texts])[0]
    assert lines_of(without[tab.texts])[0]["hint"] == ""


async def test_a_spike_with_a_text_can_be_chosen_and_fills_the_boxes(tab: InspectTab, application: Application) -> None:
    application.spikes = [{**SPIKE, "prompt": "<|im_start|>", "text": "abc"}, SPIKE]
    update = await tab.show_server(VisitorSession(), URL, None)
    ((_, event),) = update[tab.event]["choices"]
    assert tab.fill_in(event) == ["abc", "<|im_start|>", True]
    assert (await tab.offer_spikes(URL))["choices"] == update[tab.event]["choices"]


async def test_no_choice_of_a_spike_leaves_the_boxes_alone(tab: InspectTab) -> None:
    assert tab.fill_in(None) == [gr.skip()] * 3


async def test_another_server_offers_its_models_and_empties_the_view(tab: InspectTab) -> None:
    session = VisitorSession()
    await tab.score_texts(session, URL, None, "abc", "", "", "", False)
    update = await tab.show_server(session, NOWHERE, "base")
    assert session.inspected == []
    assert (update[tab.model]["choices"], update[tab.event]["choices"], update[tab.table]) == ([], [], "")
    assert "No server answers" in notes_of(update[tab.texts])[0]


@pytest.mark.parametrize(
    ("path", "reply"),
    [
        ("/tokenize", "{}"),
        ("/tokenize", "[]"),
        ("/tokenize", '{"tokens": null}'),
        ("/v1/completions", '{"choices": []}'),
        ("/v1/completions", "null"),
        ("/v1/completions", '{"choices": [{"logprobs": null}]}'),
        ("/v1/completions", "<html>"),
    ],
)
async def test_an_answer_of_another_shape_is_a_sentence(path: str, reply: str, application: Application) -> None:
    server = application.server()
    known = server._http._transport

    async def other(request: httpx.Request) -> httpx.Response:
        return (
            httpx.Response(200, text=reply) if request.url.path == path else await known.handle_async_request(request)
        )

    server.__dict__["_http"] = httpx.AsyncClient(transport=httpx.MockTransport(other))
    with gr.Blocks() as blocks:
        tab = InspectTab(page_of(blocks, server))
    update = await tab.score_texts(VisitorSession(), URL, None, "abc", "", "", "", False)
    (note,) = notes_of(update[tab.texts])
    assert note.startswith(
        (f"{URL} sent an answer that was not understood: ", "The server's answer has no", URL + path)
    )
