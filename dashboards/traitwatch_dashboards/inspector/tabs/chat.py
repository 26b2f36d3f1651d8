"""The tab Chat: a conversation whose answers stream in, coloured by a trait."""

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from traitwatch_dashboards.inspector.api.client import Served
from traitwatch_dashboards.inspector.scored.answer import Answer
from traitwatch_dashboards.inspector.scored.journal import Journal
from traitwatch_dashboards.inspector.scored.session import Session
from traitwatch_dashboards.inspector.scored.transcript import Message, Transcript
from traitwatch_dashboards.inspector.tabs.components import fragment, plot_of, view
from traitwatch_dashboards.inspector.tabs.forms import SettingsForm, model_choices
from traitwatch_dashboards.inspector.tabs.page import QUIET, Page, busy, problem_with, send_row
from traitwatch_dashboards.inspector.tabs.saving import save_row

_NAME = "chat"
_PANES = ("Conversation",)
_HINT = "Write a message below. Each token of the answer gets the colour of its score as it comes."


def chat_tab(page: Page) -> None:
    """Build the tab where a layout is open."""
    conversation = view(str(Journal(_PANES, hint=_HINT)), _NAME)
    box, send, stop = send_row("Write a message; Enter sends", _NAME)
    plot_of(_NAME)
    with gr.Accordion("Settings: model, system prompt, earlier turns, sampling", open=False):
        form = SettingsForm(page.fleet.urls)
        fragment(
            '<p class="tw-quiet">The system prompt and the earlier turns hold from the next new conversation on, '
            "all else from the next message on.</p>"
        )
    with gr.Row(elem_classes="tw-save"):
        new = gr.Button("New conversation", size="sm", min_width=140)
        save_row(page.session, _NAME, lambda session: [session.chat])

    async def answer(session: Session, text: str, *values: Any) -> AsyncIterator[dict[Any, Any]]:
        text = (text or "").strip()
        if not text or session.chat_running.busy:
            return
        settings = form.read(values)
        server = page.fleet[settings.server]
        served = await server.served()
        journal = session.chat_journal
        if served.problem:
            journal.note(served.problem, bad=True)
            yield {conversation: str(journal)}
            return
        if not session.chat.messages:
            session.chat = settings.transcript()
            journal = session.chat_journal = _begun(session.chat, served)
        if problem_with(served):
            journal.note(problem_with(served), bad=True)
        session.chat.messages.append(Message("user", text))
        journal.message("user", text)
        ask = settings.ask(server, served, session.chat)
        scored = Answer(served.traits, ask.model)
        session.chat.messages.append(Message("assistant", scored=scored))
        journal.answer(served.traits, label=page.fleet.name_of(ask.model, server))
        yield {conversation: str(journal), box: "", **busy(send, stop, True)}
        async for lines in session.chat_running.run({0: (ask, scored)}, journal):
            yield {conversation: lines}
        kept = {} if scored.text or scored.finish else {box: text}
        yield {conversation: str(journal), **kept, **busy(send, stop, False)}

    async def renew(session: Session, *values: Any) -> dict[Any, Any]:
        session.chat_running.stop()
        session.chat = Transcript()
        served = await page.fleet[form.read(values).server].served()
        session.chat_journal = _empty(served)
        return {conversation: str(session.chat_journal), **busy(send, stop, False)}

    async def serve(session: Session, url: str, model: str | None) -> dict[Any, Any]:
        served = await page.fleet[url].served()
        updates: dict[Any, Any] = {form.model: model_choices(served, model)}
        if not session.chat.messages:
            session.chat_journal = _empty(served)
            updates[conversation] = str(session.chat_journal)
        return updates

    sending = [page.session, box, *form.inputs]
    for trigger in (box.submit, send.click):
        trigger(answer, sending, [conversation, box, send, stop], **QUIET)
    stop.click(lambda session: session.chat_running.stop(), page.session, None, queue=False, **QUIET)
    new.click(renew, [page.session, *form.inputs], [conversation, send, stop], **QUIET)
    form.server.change(serve, [page.session, form.server, form.model], [form.model, conversation], **QUIET)
    page.blocks.load(serve, [page.session, form.server, form.model], [form.model, conversation], **QUIET)


def _empty(served: Served) -> Journal:
    """Return the journal of a view in which nothing was said yet, or of what is wrong with the server."""
    journal = Journal(_PANES, served.traits, hint=_HINT)
    if problem_with(served):
        journal.note(problem_with(served), bad=True)
    return journal


def _begun(transcript: Transcript, served: Served) -> Journal:
    """Return the journal of a conversation of which only what stands before the question is there."""
    journal = Journal(_PANES, served.traits)
    for message in transcript.messages:
        journal.message(message.role, message.text, fold=True)
    return journal
