"""The tab Compare: one prompt and two panes with different settings. Both answers stream at once."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import gradio as gr

from traitwatch_dashboards.inspector.api.client import Served
from traitwatch_dashboards.inspector.api.traits import Trait
from traitwatch_dashboards.inspector.scored.generation import GenerationRequest
from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText
from traitwatch_dashboards.inspector.scored.journal import Journal
from traitwatch_dashboards.inspector.scored.session import VisitorSession, titled_answers
from traitwatch_dashboards.inspector.scored.tables import comparison_html
from traitwatch_dashboards.inspector.scored.transcript import Message, Transcript
from traitwatch_dashboards.inspector.tabs.components import fragment, plot_of, token_view
from traitwatch_dashboards.inspector.tabs.forms import PaneSettings, SettingsForm, model_choices
from traitwatch_dashboards.inspector.tabs.page import QUIET, Page, SendRow, empty_journal, problem_with
from traitwatch_dashboards.inspector.tabs.presets import Preset, presets
from traitwatch_dashboards.inspector.tabs.saving import save_row

_NAME = "compare"
_PANES = ("A", "B")
_HINT = (
    "Choose an example above: two answers to one question stream side by side, each token in the colour of its score. "
    "Or give A and B different settings, and ask a question below."
)
# The trait of the presets.
_FOCUS = "paternalism"


class CompareTab:
    """The components of the tab, and a method for each of its events.

    Attributes:
        answers: the view with both panes.
        row: the box for a message, with Send and Stop.
        table: the table that compares the scores.
        forms: the settings of each pane.
    """

    def __init__(self, page: Page):
        """Build the tab where a layout is open.

        Args:
            page: the page.
        """
        self._fleet = page.fleet
        with gr.Row(elem_classes="tw-presets"):
            fragment('<span class="tw-caption">See a difference:</span>')
            buttons = [
                (preset, gr.Button(preset.name, size="sm", elem_id=f"preset-{i}")) for i, preset in enumerate(presets())
            ]
        self.answers = token_view(str(Journal(_PANES, hint=_HINT)), _NAME)
        self.row = SendRow("Ask both; Enter sends", _NAME)
        plot_of(_NAME)
        self.table = fragment(elem_id="compare-table")
        self.forms: list[SettingsForm] = []
        with gr.Accordion("Settings of A and B: model, system prompt, earlier turns, sampling", open=False), gr.Row():
            for name in _PANES:
                with gr.Column(min_width=300):
                    self.forms.append(SettingsForm(page.fleet.urls, name=name))
        with gr.Row(elem_classes="tw-save"):
            save_row(page.session, _NAME, lambda session: session.panes)
        self._connect(page, buttons)

    def _connect(self, page: Page, buttons: Sequence[tuple[Preset, gr.Button]]) -> None:
        row = self.row
        settings = [component for form in self.forms for component in form.inputs]
        inputs = [page.session, row.message, *settings]
        outputs = [self.answers, self.table, row.send, row.stop]
        for trigger in (row.message.submit, row.send.click):
            trigger(self.ask, inputs, outputs, **QUIET)
        for preset, button in buttons:
            filled = button.click(partial(self.fill_in, preset), None, [row.message, *settings], **QUIET)
            filled.then(self.ask, inputs, outputs, **QUIET)
        row.stop.click(self.stop, page.session, None, queue=False, **QUIET)
        for form in self.forms:
            for trigger in (form.server.change, page.blocks.load):
                trigger(self.offer_models, [form.server, form.model], form.model, **QUIET)
        page.blocks.load(self.show_server, self.forms[0].server, self.answers, **QUIET)

    async def ask(self, session: VisitorSession, text: str, *values: Any) -> AsyncIterator[dict[Any, Any]]:
        """Ask a question in both panes, stream both answers into the view, and compare their scores.

        A question that is empty, or that comes while answers are generated, is ignored.

        Args:
            session: the visitor's session.
            text: the question.
            values: the values of the inputs of both forms.

        Yields:
            Updates by component.
        """
        text = (text or "").strip()
        if not text or session.compare_running.busy:
            return
        with session.compare_running.claimed():
            async for updates in self._answers(session, text, values):
                yield updates

    async def _answers(
        self, session: VisitorSession, text: str, values: Sequence[Any]
    ) -> AsyncIterator[dict[Any, Any]]:
        """Stream the answers to a question into the view; see `ask`."""
        settings = self._settings(values)
        served = await asyncio.gather(*(self._fleet[pane.server].served() for pane in settings))
        journal = Journal([pane.title for pane in settings], _all_traits(served), focus=_focus(served))
        session.panes = [pane.transcript() for pane in settings]
        begun = [self._begin(journal, i, session.panes[i], settings[i], served[i], text) for i in range(len(settings))]
        requests = {i: pair for i, pair in enumerate(begun) if pair is not None}
        if not requests:
            yield {self.answers: str(journal), self.table: ""}
            return
        yield {self.answers: str(journal), self.table: "", **self.row.busy(True)}
        async for lines in session.compare_running.run(requests, journal):
            yield {self.answers: lines}
        table = comparison_html(titled_answers(session.panes))
        yield {self.answers: str(journal), self.table: table, **self.row.busy(False)}

    def _settings(self, values: Sequence[Any]) -> list[PaneSettings]:
        width = len(self.forms[0].inputs)
        return [form.read(values[i * width : (i + 1) * width]) for i, form in enumerate(self.forms)]

    def _begin(
        self, journal: Journal, pane: int, transcript: Transcript, settings: PaneSettings, served: Served, text: str
    ) -> tuple[GenerationRequest, InspectedText] | None:
        """Show the earlier turns and the question in a pane; return the request, and the answer that it will fill.

        Where the server cannot be asked, the pane says why, and the result is None.
        """
        for message in transcript.messages:
            journal.message(message.role, message.text, pane, fold=True)
        transcript.messages.append(Message("user", text))
        journal.message("user", text, pane)
        if problem_with(served):
            journal.note(problem_with(served), pane, bad=True)
        if served.problem:
            return None
        request = settings.request(self._fleet[settings.server], served, transcript)
        answer = InspectedText(served.traits, request.model)
        transcript.messages.append(Message("assistant", scored=answer))
        journal.answer(served.traits, pane, label=self._fleet.name_of(request.model, request.server))
        return request, answer

    def stop(self, session: VisitorSession) -> None:
        """Stop the answers that are being generated; the tokens that have come stay."""
        session.compare_running.stop()

    async def fill_in(self, preset: Preset) -> list[Any]:
        """Return the message and all settings of a preset: the panes differ only in their titles and earlier turns."""
        url = self._fleet.urls[0]
        served = await self._fleet[url].served()
        values: list[Any] = [preset.prompt]
        for title, examples in zip(preset.titles, preset.examples, strict=True):
            settings = PaneSettings(url, "", "", examples, preset.temperature, preset.top_p, preset.max_tokens, title)
            values += SettingsForm.filled(settings, served)
        return values

    async def offer_models(self, url: str, model: str | None) -> Any:
        """Return the update of a choice of models; the chosen model stays chosen where the server has it."""
        return model_choices(await self._fleet[url].served(), model)

    async def show_server(self, url: str) -> str:
        """Return the view before the first question, with the problem of the server where it has one."""
        served = await self._fleet[url].served()
        return str(empty_journal(_PANES, served, _HINT, focus=_focus([served])))


def _all_traits(served: Sequence[Served]) -> list[Trait]:
    """Return the traits of all servers, each name once."""
    return list({trait.name: trait for server in served for trait in server.traits}.values())


def _focus(served: Sequence[Served]) -> str:
    """Return the trait of the presets where a server has it; otherwise empty."""
    return _FOCUS if any(trait.name == _FOCUS for trait in _all_traits(served)) else ""
