"""The events of the tab Chat, without a browser."""

import asyncio
from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest

from tests.support.inspected import Application, kinds_of, lines_of, notes_of, page_of, values_of
from traitwatch_dashboards.inspector.api.client import Server
from traitwatch_dashboards.inspector.scored.running import STOPPED
from traitwatch_dashboards.inspector.scored.session import VisitorSession
from traitwatch_dashboards.inspector.tabs.chat import ChatTab

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def application() -> Application:
    return Application("Hel", "lo", "")


@pytest.fixture
def tab(application: Application) -> Iterator[ChatTab]:
    with gr.Blocks() as blocks:
        yield ChatTab(page_of(blocks, application.server(), Server(NOWHERE)))


async def sent(tab: ChatTab, session: VisitorSession, text: str, **changed: Any) -> list[dict[Any, Any]]:
    return [update async for update in tab.send(session, text, *values_of(tab.form, **changed))]


async def test_a_message_is_answered_with_scored_tokens(tab: ChatTab) -> None:
    session = VisitorSession()
    updates = await sent(tab, session, " Hi ")
    assert [(message.role, message.content) for message in session.chat.messages] == [
        ("user", "Hi"),
        ("assistant", "Hello"),
    ]
    assert session.chat.answers[0].projections == {"paternalism": [-5.0, -5.0, None]}
    assert kinds_of(updates[-1][tab.conversation]) == ["text", "answer", "add", "end"]


async def test_stop_takes_the_place_of_send_while_the_answer_streams(tab: ChatTab) -> None:
    updates = await sent(tab, VisitorSession(), "Hi")
    visible = [update[tab.row.stop]["visible"] for update in updates if tab.row.stop in update]
    assert visible == [True, False]
    assert updates[0][tab.row.message] == ""
    assert tab.row.message not in updates[-1]


async def under_way(tab: ChatTab, session: VisitorSession, application: Application) -> "asyncio.Task[list[Any]]":
    """Send a message whose answer waits for `application.released`."""
    application.released.clear()
    answer = asyncio.create_task(sent(tab, session, "Hi"))
    async with asyncio.timeout(30):
        while not application.chats:
            await asyncio.sleep(0.01)
    return answer


@pytest.mark.parametrize("text", ["", "  \n", None])
async def test_an_empty_message_is_ignored(tab: ChatTab, text: str) -> None:
    assert await sent(tab, VisitorSession(), text) == []


async def test_a_message_is_ignored_while_an_answer_is_generated(tab: ChatTab, application: Application) -> None:
    session = VisitorSession()
    first = await under_way(tab, session, application)
    assert await sent(tab, session, "And?") == []
    application.released.set()
    await first
    assert len(application.chats) == 1
    assert session.chat.answers[0].text == "Hello"


async def test_a_conversation_begins_with_system_prompt_and_earlier_turns(
    tab: ChatTab, application: Application
) -> None:
    session = VisitorSession()
    changed = {"System prompt": "Be brief.", "Earlier turns": "User: a\nAssistant: b"}
    updates = await sent(tab, session, "Hi", **changed)
    assert [message["content"] for message in application.chats[0]["messages"]] == ["Be brief.", "a", "b", "Hi"]
    folded = [line["fold"] for line in lines_of(updates[-1][tab.conversation]) if line["k"] == "text"]
    assert folded == [True, True, True, False]
    await sent(tab, session, "Go on", **{"System prompt": "Be long."})
    assert application.chats[1]["messages"][0]["content"] == "Be brief."


async def test_a_message_that_nobody_answers_goes_back_into_its_box(tab: ChatTab, application: Application) -> None:
    application.refusal = "too long"
    session = VisitorSession()
    updates = await sent(tab, session, "Hi")
    assert updates[-1][tab.row.message] == "Hi"
    assert "too long" in notes_of(updates[-1][tab.conversation])[0]
    application.refusal = ""
    await sent(tab, session, "Again")
    assert [message["content"] for message in application.chats[1]["messages"]] == ["Again"]


async def test_without_a_server_the_view_shows_the_reason(tab: ChatTab) -> None:
    session = VisitorSession()
    (update,) = await sent(tab, session, "Hi", Server=NOWHERE)
    assert f"No server answers at {NOWHERE}" in notes_of(update[tab.conversation])[0]
    assert session.chat.messages == []


async def test_a_server_without_traits_answers_with_a_warning(tab: ChatTab, application: Application) -> None:
    application.traits = []
    updates = await sent(tab, VisitorSession(), "Hi")
    assert "no traits loaded" in notes_of(updates[0][tab.conversation])[0]
    assert application.chats[0]["traits"] is False


async def test_a_new_conversation_forgets_the_old_one(tab: ChatTab) -> None:
    session = VisitorSession()
    await sent(tab, session, "Hi")
    update = await tab.begin_anew(session, *values_of(tab.form))
    assert session.chat.messages == []
    assert kinds_of(update[tab.conversation]) == []
    assert update[tab.row.send]["visible"]


async def test_stop_ends_the_answer(tab: ChatTab, application: Application) -> None:
    session = VisitorSession()
    answer = await under_way(tab, session, application)
    tab.stop(session)
    await answer
    assert not session.chat_running.busy
    assert session.chat.answers[0].note.startswith("Stopped")


async def test_another_server_offers_its_models_and_leaves_a_conversation_alone(tab: ChatTab) -> None:
    session = VisitorSession()
    empty = await tab.show_server(session, "http://server:8000", "adapter")
    assert (empty[tab.form.model]["choices"], empty[tab.form.model]["value"]) == (["base", "adapter"], "adapter")
    assert tab.conversation in empty
    await sent(tab, session, "Hi")
    assert tab.conversation not in await tab.show_server(session, NOWHERE, "adapter")


async def test_an_empty_view_shows_the_problem_of_its_server(tab: ChatTab) -> None:
    update = await tab.show_server(VisitorSession(), NOWHERE, None)
    assert "No server answers" in notes_of(update[tab.conversation])[0]


async def test_enter_and_a_click_at_once_send_one_message(tab: ChatTab, application: Application) -> None:
    session = VisitorSession()
    await asyncio.gather(sent(tab, session, "Hi"), sent(tab, session, "Hi"))
    assert len(application.chats) == 1
    assert [message.content for message in session.chat.messages] == ["Hi", "Hello"]
    assert not session.chat_running.busy


async def test_stop_before_the_first_step_ends_the_answer(tab: ChatTab, application: Application) -> None:
    session = VisitorSession()
    updates = []
    async for update in tab.send(session, "Hi", *values_of(tab.form)):
        updates.append(update)
        tab.stop(session)
    assert kinds_of(updates[-1][tab.conversation])[-2:] == ["end", "note"]
    assert notes_of(updates[-1][tab.conversation]) == [STOPPED]
    assert updates[-1][tab.row.send]["visible"]
    assert application.chats == []
    assert await sent(tab, session, "Again"), "the view must not be busy any more"
    assert len(application.chats) == 1


async def test_an_answer_that_a_new_conversation_stops_does_not_come_back(
    tab: ChatTab, application: Application
) -> None:
    session = VisitorSession()
    answer = await under_way(tab, session, application)
    await tab.begin_anew(session, *values_of(tab.form))
    begun = [update for update in await answer if tab.conversation in update]
    assert kinds_of(begun[-1][tab.conversation])[-1] == "answer", "only what came before the new conversation"
    assert tab.row.message not in begun[-1] or begun[-1][tab.row.message] == ""
