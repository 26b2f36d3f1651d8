"""The tab Chat: a conversation whose answers stream in, coloured by a trait."""

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from traitwatch_dashboards.inspector.api.client import Served
from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText
from traitwatch_dashboards.inspector.scored.journal import Journal
from traitwatch_dashboards.inspector.scored.session import VisitorSession
from traitwatch_dashboards.inspector.scored.transcript import Message, Transcript
from traitwatch_dashboards.inspector.tabs.components import fragment, plot_of, token_view
from traitwatch_dashboards.inspector.tabs.forms import SettingsForm, model_choices
from traitwatch_dashboards.inspector.tabs.page import QUIET, Page, SendRow, empty_journal, problem_with
from traitwatch_dashboards.inspector.tabs.saving import save_row

_NAME = "chat"
_PANES = ("Conversation",)
_HINT = "Write a message below. Each token of the answer gets the colour of its score as it comes."


class ChatTab:
    """The components of the tab, and a method for each of its events.

    Attributes:
        conversation: the view.
        row: the box for a message, with Send and Stop.
        form: the settings.
    """

    def __init__(self, page: Page):
        """Build the tab where a layout is open.

        Args:
            page: the page.
        """
        self._fleet = page.fleet
        self.conversation = token_view(str(Journal(_PANES, hint=_HINT)), _NAME)
        self.row = SendRow("Write a message; Enter sends", _NAME)
        plot_of(_NAME)
        with gr.Accordion("Settings: model, system prompt, earlier turns, sampling", open=False):
            self.form = SettingsForm(page.fleet.urls)
            fragment(
                '<p class="tw-quiet">A new system prompt and new earlier turns apply to the next new conversation. All '
                "other settings apply to the next message.</p>"
            )
        with gr.Row(elem_classes="tw-save"):
            new = gr.Button("New conversation", size="sm", min_width=140)
            save_row(page.session, _NAME, lambda session: [session.chat])
        self._connect(page, new)

    def _connect(self, page: Page, new: gr.Button) -> None:
        row, form = self.row, self.form
        for trigger in (row.message.submit, row.send.click):
            trigger(
                self.send,
                [page.session, row.message, *form.inputs],
                [self.conversation, row.message, row.send, row.stop],
                **QUIET,
            )
        row.stop.click(self.stop, page.session, None, queue=False, **QUIET)
        new.click(self.begin_anew, [page.session, *form.inputs], [self.conversation, row.send, row.stop], **QUIET)
        for trigger in (form.server.change, page.blocks.load):
            trigger(self.show_server, [page.session, form.server, form.model], [form.model, self.conversation], **QUIET)

    async def send(self, session: VisitorSession, text: str, *values: Any) -> AsyncIterator[dict[Any, Any]]:
        """Send a message and stream the answer into the view.

        An answer without a text and without an end puts the message back into its box. A message that is empty, or that
        comes while an answer is generated, is ignored.

        Args:
            session: the visitor's session.
            text: the message.
            values: the values of `form.inputs`.

        Yields:
            Updates by component.
        """
        text = (text or "").strip()
        if not text or session.chat_running.busy:
            return
        with session.chat_running.claimed():
            async for updates in self._answer(session, text, *values):
                yield updates

    async def _answer(self, session: VisitorSession, text: str, *values: Any) -> AsyncIterator[dict[Any, Any]]:
        """Stream the answer to a message into the view; see `send`."""
        settings = self.form.read(values)
        server = self._fleet[settings.server]
        served = await server.served()
        journal = session.chat_journal
        if served.problem:
            journal.note(served.problem, bad=True)
            yield {self.conversation: str(journal)}
            return
        if not session.chat.messages:
            session.chat = settings.transcript()
            journal = session.chat_journal = _begun(session.chat, served)
        if problem_with(served):
            journal.note(problem_with(served), bad=True)
        session.chat.messages.append(Message("user", text))
        journal.message("user", text)
        request = settings.request(server, served, session.chat)
        answer = InspectedText(served.traits, request.model)
        session.chat.messages.append(Message("assistant", scored=answer))
        journal.answer(served.traits, label=self._fleet.name_of(request.model, server))
        yield {self.conversation: str(journal), self.row.message: "", **self.row.busy(True)}
        async for lines in session.chat_running.run({0: (request, answer)}, journal):
            if session.chat_journal is journal:
                yield {self.conversation: lines}
        if session.chat_journal is not journal:
            # A new conversation has begun, and the view shows it.
            return
        put_back = {} if answer.text or answer.finish else {self.row.message: text}
        yield {self.conversation: str(journal), **put_back, **self.row.busy(False)}

    def stop(self, session: VisitorSession) -> None:
        """Stop the answer that is being generated; the tokens that have come stay."""
        session.chat_running.stop()

    async def begin_anew(self, session: VisitorSession, *values: Any) -> dict[Any, Any]:
        """Begin a new conversation: stop the answer, and empty the view.

        Args:
            session: the visitor's session.
            values: the values of `form.inputs`.

        Returns:
            Updates by component.
        """
        session.chat_running.stop()
        session.chat = Transcript()
        session.chat_journal = Journal(_PANES, hint=_HINT)
        served = await self._fleet[self.form.read(values).server].served()
        session.chat_journal = empty_journal(_PANES, served, _HINT)
        return {self.conversation: str(session.chat_journal), **self.row.busy(False)}

    async def show_server(self, session: VisitorSession, url: str, model: str | None) -> dict[Any, Any]:
        """Offer the models of a server; an empty view also shows the problem with the server.

        Args:
            session: the visitor's session.
            url: address of the server.
            model: the model that is chosen so far; it stays chosen where the server has it.

        Returns:
            Updates by component.
        """
        served = await self._fleet[url].served()
        updates: dict[Any, Any] = {self.form.model: model_choices(served, model)}
        if not session.chat.messages:
            session.chat_journal = empty_journal(_PANES, served, _HINT)
            updates[self.conversation] = str(session.chat_journal)
        return updates


def _begun(transcript: Transcript, served: Served) -> Journal:
    """Return the journal of a conversation that has only a system prompt and earlier turns."""
    journal = Journal(_PANES, served.traits)
    for message in transcript.messages:
        journal.message(message.role, message.text, fold=True)
    return journal
