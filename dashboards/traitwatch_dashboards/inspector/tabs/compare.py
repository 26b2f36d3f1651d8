"""The tab Compare: one prompt, two panes that differ in whatever one likes, both answers streaming at once."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from traitwatch_dashboards.inspector.api.client import Served
from traitwatch_dashboards.inspector.scored.answer import Answer
from traitwatch_dashboards.inspector.scored.generation import Ask
from traitwatch_dashboards.inspector.scored.journal import Journal
from traitwatch_dashboards.inspector.scored.session import Session, titled_answers
from traitwatch_dashboards.inspector.scored.tables import comparison_html
from traitwatch_dashboards.inspector.scored.transcript import Message
from traitwatch_dashboards.inspector.tabs.components import fragment, plot_of, view
from traitwatch_dashboards.inspector.tabs.forms import Settings, SettingsForm, model_choices
from traitwatch_dashboards.inspector.tabs.page import QUIET, Fleet, Page, busy, problem_with, send_row
from traitwatch_dashboards.inspector.tabs.presets import Preset, presets
from traitwatch_dashboards.inspector.tabs.saving import save_row

_NAME = "compare"
_PANES = ("A", "B")
_HINT = (
    "Choose an example above: two answers to one question stream side by side, each token in the colour of its score. "
    "Or make A and B differ in the settings, and ask below."
)
# The trait that the presets are about.
_FOCUS = "paternalism"


def compare_tab(page: Page) -> None:
    """Build the tab where a layout is open."""
    with gr.Row(elem_classes="tw-presets"):
        fragment('<span class="tw-caption">See a difference:</span>')
        buttons = [
            (preset, gr.Button(preset.name, size="sm", elem_id=f"preset-{i}")) for i, preset in enumerate(presets())
        ]
    both = view(str(Journal(_PANES, hint=_HINT)), _NAME)
    box, send, stop = send_row("Ask both; Enter sends", _NAME)
    plot_of(_NAME)
    table = fragment(elem_id="compare-table")
    with gr.Accordion("Settings of A and B: model, system prompt, earlier turns, sampling", open=False), gr.Row():
        forms = []
        for name in _PANES:
            with gr.Column(min_width=300):
                forms.append(SettingsForm(page.fleet.urls, name=name))
    with gr.Row(elem_classes="tw-save"):
        save_row(page.session, _NAME, lambda session: session.panes)
    width = len(forms[0].inputs)

    async def answer(session: Session, text: str, *values: Any) -> AsyncIterator[dict[Any, Any]]:
        text = (text or "").strip()
        if not text or session.compare_running.busy:
            return
        settings = [form.read(values[i * width : (i + 1) * width]) for i, form in enumerate(forms)]
        served = await asyncio.gather(*(page.fleet[pane.server].served() for pane in settings))
        journal = Journal([pane.title for pane in settings], _union(served), focus=_focus(served))
        session.panes = [pane.transcript() for pane in settings]
        begun = [
            _begin(page, session, journal, i, pane, of, text)
            for i, (pane, of) in enumerate(zip(settings, served, strict=True))
        ]
        asks = {i: ask for i, ask in enumerate(begun) if ask is not None}
        if not asks:
            yield {both: str(journal), table: ""}
            return
        yield {both: str(journal), table: "", **busy(send, stop, True)}
        async for lines in session.compare_running.run(asks, journal):
            yield {both: lines}
        yield {both: str(journal), table: comparison_html(titled_answers(session.panes)), **busy(send, stop, False)}

    async def serve(url: str, model: str | None) -> Any:
        return model_choices(await page.fleet[url].served(), model)

    async def first(url: str) -> str:
        served = await page.fleet[url].served()
        journal = Journal(_PANES, served.traits, hint=_HINT, focus=_focus([served]))
        if problem_with(served):
            journal.note(problem_with(served), bad=True)
        return str(journal)

    sending = [page.session, box, *forms[0].inputs, *forms[1].inputs]
    outputs = [both, table, send, stop]
    for trigger in (box.submit, send.click):
        trigger(answer, sending, outputs, **QUIET)
    for preset, button in buttons:
        filled = button.click(_filler(preset, page.fleet), None, [box, *forms[0].inputs, *forms[1].inputs], **QUIET)
        filled.then(answer, sending, outputs, **QUIET)
    stop.click(lambda session: session.compare_running.stop(), page.session, None, queue=False, **QUIET)
    for form in forms:
        for trigger in (form.server.change, page.blocks.load):
            trigger(serve, [form.server, form.model], form.model, **QUIET)
    page.blocks.load(first, forms[0].server, both, **QUIET)


def _begin(
    page: Page, session: Session, journal: Journal, pane: int, settings: Settings, served: Served, text: str
) -> tuple[Ask, Answer] | None:
    """Show in a pane what stands before the answer, and return what is asked and the answer to fill.

    Where its server cannot be asked, the pane says why, and there is nothing to return.
    """
    transcript = session.panes[pane]
    for message in transcript.messages:
        journal.message(message.role, message.text, pane, fold=True)
    transcript.messages.append(Message("user", text))
    journal.message("user", text, pane)
    if problem_with(served):
        journal.note(problem_with(served), pane, bad=True)
    if served.problem:
        return None
    ask = settings.ask(page.fleet[settings.server], served, transcript)
    answer = Answer(served.traits, ask.model)
    transcript.messages.append(Message("assistant", scored=answer))
    journal.answer(served.traits, pane, label=page.fleet.name_of(ask.model, ask.server))
    return ask, answer


def _filler(preset: Preset, fleet: Fleet) -> Any:
    """Return what fills in the box and all settings: with a preset, the panes differ in what is its own alone."""

    async def fill() -> list[Any]:
        url = fleet.urls[0]
        served = await fleet[url].served()
        values: list[Any] = [preset.prompt]
        for title, examples in zip(preset.titles, preset.examples, strict=True):
            settings = Settings(url, "", "", examples, preset.temperature, preset.top_p, preset.max_tokens, title)
            values += SettingsForm.filled(settings, served)
        return values

    return fill


def _union(served: list[Served]) -> list[Any]:
    """Return the traits of all servers, each name once."""
    return list({trait.name: trait for of in served for trait in of.traits}.values())


def _focus(served: list[Served]) -> str:
    return _FOCUS if any(trait.name == _FOCUS for of in served for trait in of.traits) else ""
