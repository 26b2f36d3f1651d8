"""The tab Inspect: a text that nobody generated here, scored; or two of them, and their difference."""

import json
from typing import Any

import gradio as gr

from traitwatch_dashboards.inspector.api.client import Served
from traitwatch_dashboards.inspector.api.problems import TROUBLE, problem
from traitwatch_dashboards.inspector.scored.answer import Answer
from traitwatch_dashboards.inspector.scored.journal import Journal
from traitwatch_dashboards.inspector.scored.scoring import Pasted, score
from traitwatch_dashboards.inspector.scored.session import Session, titled_answers
from traitwatch_dashboards.inspector.scored.spike_events import choices_of, latest_spikes, pasted_event
from traitwatch_dashboards.inspector.scored.tables import comparison_html
from traitwatch_dashboards.inspector.scored.transcript import Message, Transcript
from traitwatch_dashboards.inspector.tabs.components import fragment, plot_of, view
from traitwatch_dashboards.inspector.tabs.forms import model_choices
from traitwatch_dashboards.inspector.tabs.page import NO_TRAITS, QUIET, Page, problem_with
from traitwatch_dashboards.inspector.tabs.saving import save_row

_NAME = "inspect"
_PANES = ("Text",)
_HINT = (
    "Paste a text above and score it: the model reads it, and each token gets its colour. Nothing is generated. With a "
    "prompt before it, the text is scored as the model's answer to that prompt."
)


def inspect_tab(page: Page) -> None:
    """Build the tab where a layout is open."""
    urls = page.fleet.urls
    inputs: list[Any] = []
    with gr.Row():
        for name in ("A", "B"):
            with gr.Column(min_width=300):
                inputs += _text_boxes(name)
    raw = gr.Checkbox(
        label="The prompt is the model's whole input, special tokens and all, as in the event log", container=False
    )
    with gr.Row(elem_classes="tw-score"):
        server = gr.Dropdown(urls, value=urls[0], label="Server", visible=len(urls) > 1, scale=2)
        model = gr.Dropdown([], label="Model or adapter", allow_custom_value=True, scale=2)
        event = gr.Dropdown([], label="A spike of the event log", info="Only where the server logs texts", scale=3)
        go = gr.Button("Score", variant="primary", scale=1, elem_id="inspect-score")
    shown = view(str(Journal(_PANES, hint=_HINT)), _NAME)
    plot_of(_NAME)
    table = fragment(elem_id="inspect-table")
    with gr.Row(elem_classes="tw-save"):
        save_row(page.session, _NAME, lambda session: session.inspected)

    async def inspect(session: Session, url: str, chosen: str | None, *values: Any) -> dict[Any, Any]:
        session.inspected = []
        served = await page.fleet[url].served()
        if problem_with(served):
            return {shown: _note(served, problem_with(served)), table: ""}
        try:
            texts = [pasted_event(Pasted(values[i] or "", values[i + 1] or "", bool(values[-1]))) for i in (0, 2)]
            texts = [text for text in texts if text.text.strip()]
            if not texts:
                return {shown: _note(served, "Paste a text first."), table: ""}
            answers = [await score(page.fleet[url], served.model(chosen), text, served.traits) for text in texts]
        except TROUBLE as error:
            return {shown: _note(served, problem(error, page.fleet[url].url)), table: ""}
        session.inspected = [
            _transcript(title if len(texts) > 1 else "", text, answer)
            for title, text, answer in zip(("A", "B"), texts, answers, strict=False)
        ]
        compared = [(title or "text", answer) for title, answer in titled_answers(session.inspected)]
        return {shown: str(_journal(session.inspected, served)), table: comparison_html(compared)}

    async def serve(session: Session, url: str, chosen: str | None) -> dict[Any, Any]:
        session.inspected = []
        served = await page.fleet[url].served()
        events = await latest_spikes(page.fleet[url])
        first = Journal(_PANES, served.traits, hint=_HINT)
        if problem_with(served):
            first.note(problem_with(served), bad=True)
        return {
            model: model_choices(served, chosen),
            event: gr.update(choices=choices_of(events), value=None),
            shown: str(first),
            table: "",
        }

    async def refresh(url: str) -> Any:
        return gr.update(choices=choices_of(await latest_spikes(page.fleet[url])))

    def take(told: str | None) -> list[Any]:
        if not told:
            return [gr.skip()] * 3
        logged = json.loads(told)
        return [logged.get("text", ""), logged.get("prompt", ""), True]

    go.click(inspect, [page.session, server, model, *inputs, raw], [shown, table], **QUIET)
    event.focus(refresh, server, event, **QUIET)
    event.input(take, event, [*inputs[:2], raw], **QUIET)
    for trigger in (server.change, page.blocks.load):
        trigger(serve, [page.session, server, model], [model, event, shown, table], **QUIET)


def _text_boxes(name: str) -> list[Any]:
    """Return the boxes of one text, in the order of `Pasted`."""
    optional = "" if name == "A" else " (optional, to compare)"
    prompt = gr.Textbox(
        label=f"Prompt {name} (optional)", lines=1, max_lines=6, elem_id=f"inspect-prompt-{name.lower()}"
    )
    text = gr.Textbox(
        label=f"Text {name}{optional}",
        lines=4,
        max_lines=12,
        placeholder="A text, an answer to the prompt, or a line of the event log",
        elem_id=f"inspect-text-{name.lower()}",
    )
    return [text, prompt]


def _transcript(title: str, text: Pasted, answer: Answer) -> Transcript:
    before = [Message("user", text.prompt)] if text.prompt else []
    return Transcript(title, [*before, Message("assistant", scored=answer)])


def _journal(panes: list[Transcript], served: Served) -> Journal:
    """Return the journal of scored texts."""
    journal = Journal([pane.title or _PANES[0] for pane in panes], served.traits)
    for i, pane in enumerate(panes):
        for message in pane.messages:
            if message.scored is None:
                journal.message(message.role, message.text, i)
                continue
            journal.answer(served.traits, i, label="Scored text")
            journal.add(message.scored.texts, 0, message.scored.projections, i)
            journal.end(message.scored, i)
    return journal


def _note(served: Served, text: str) -> str:
    journal = Journal(_PANES, served.traits, hint="" if text == NO_TRAITS else _HINT)
    journal.note(text, bad=True)
    return str(journal)
