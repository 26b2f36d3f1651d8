"""The tab Inspect: a pasted text, scored; or two texts and the difference of their scores. No text is generated."""

import json
from typing import Any

import gradio as gr

from traitwatch_dashboards.inspector.api.client import Served
from traitwatch_dashboards.inspector.api.problems import TROUBLE, problem
from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText
from traitwatch_dashboards.inspector.scored.journal import Journal
from traitwatch_dashboards.inspector.scored.scoring import Pasted, score
from traitwatch_dashboards.inspector.scored.session import VisitorSession, titled_answers
from traitwatch_dashboards.inspector.scored.spike_events import choices_of, latest_spikes, pasted_event
from traitwatch_dashboards.inspector.scored.tables import comparison_html
from traitwatch_dashboards.inspector.scored.transcript import Message, Transcript
from traitwatch_dashboards.inspector.tabs.components import fragment, plot_of, token_view
from traitwatch_dashboards.inspector.tabs.forms import model_choices
from traitwatch_dashboards.inspector.tabs.page import (
    NO_TRAITS,
    QUIET,
    Page,
    empty_journal,
    problem_with,
    server_choice,
)
from traitwatch_dashboards.inspector.tabs.saving import save_row

_NAME = "inspect"
_PANES = ("Text",)
_HINT = (
    "Paste a text above and score it: the model reads it, and each token gets its colour. Nothing is generated. With a "
    "prompt before it, the text is scored as the model's answer to that prompt."
)


class InspectTab:
    """The components of the tab, and a method for each of its events.

    Attributes:
        server: the choice of a server.
        model: the choice of a model.
        event: the choice of a spike of the event log.
        texts: the view of the scored texts.
        table: the table that compares the scores.
    """

    def __init__(self, page: Page):
        """Build the tab where a layout is open.

        Args:
            page: the page.
        """
        self._fleet = page.fleet
        boxes: list[Any] = []
        with gr.Row():
            for name in ("A", "B"):
                with gr.Column(min_width=300):
                    boxes += _text_boxes(name)
        raw = gr.Checkbox(
            label="The prompt is the model's whole input, special tokens and all, as in the event log", container=False
        )
        with gr.Row(elem_classes="tw-score"):
            self.server = server_choice(page.fleet, scale=2)
            self.model = gr.Dropdown([], label="Model or adapter", allow_custom_value=True, scale=2)
            self.event = gr.Dropdown(
                [], label="A spike of the event log", info="Only where the server logs texts", scale=3
            )
            button = gr.Button("Score", variant="primary", scale=1, elem_id="inspect-score")
        self.texts = token_view(str(Journal(_PANES, hint=_HINT)), _NAME)
        plot_of(_NAME)
        self.table = fragment(elem_id="inspect-table")
        with gr.Row(elem_classes="tw-save"):
            save_row(page.session, _NAME, lambda session: session.inspected)
        self._connect(page, boxes, raw, button)

    def _connect(self, page: Page, boxes: list[Any], raw: gr.Checkbox, button: gr.Button) -> None:
        choices = [page.session, self.server, self.model]
        button.click(self.score_texts, [*choices, *boxes, raw], [self.texts, self.table], **QUIET)
        self.event.focus(self.offer_spikes, self.server, self.event, **QUIET)
        self.event.input(self.fill_in, self.event, [*boxes[:2], raw], **QUIET)
        for trigger in (self.server.change, page.blocks.load):
            trigger(self.show_server, choices, [self.model, self.event, self.texts, self.table], **QUIET)

    async def score_texts(self, session: VisitorSession, url: str, model: str | None, *values: Any) -> dict[Any, Any]:
        """Score the texts in the boxes, and show them with the table of their scores.

        Args:
            session: the visitor's session.
            url: address of the server.
            model: the chosen model; empty for the server's first.
            values: text A, prompt A, text B, prompt B, and whether the prompts are the model's whole input.

        Returns:
            Updates by component.
        """
        session.inspected = []
        server = self._fleet[url]
        served = await server.served()
        if problem_with(served):
            return self._refusal(served, problem_with(served))
        try:
            texts = [pasted_event(Pasted(values[i] or "", values[i + 1] or "", bool(values[-1]))) for i in (0, 2)]
            texts = [text for text in texts if text.text.strip()]
            if not texts:
                return self._refusal(served, "Paste a text first.")
            answers = [await score(server, served.model(model), text, served.traits) for text in texts]
        except (*TROUBLE, KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            # The last five: the server's answer has another shape.
            return self._refusal(served, problem(error, server.url))
        session.inspected = [
            _transcript(title if len(texts) > 1 else "", text, answer)
            for title, text, answer in zip(("A", "B"), texts, answers, strict=False)
        ]
        compared = [(title or "text", answer) for title, answer in titled_answers(session.inspected)]
        return {self.texts: str(_journal(session.inspected, served)), self.table: comparison_html(compared)}

    def _refusal(self, served: Served, reason: str) -> dict[Any, Any]:
        """Return the updates that show a reason in the place of scores."""
        journal = Journal(_PANES, served.traits, hint="" if reason == NO_TRAITS else _HINT)
        journal.note(reason, bad=True)
        return {self.texts: str(journal), self.table: ""}

    async def show_server(self, session: VisitorSession, url: str, model: str | None) -> dict[Any, Any]:
        """Offer the models and the latest spikes of a server, and empty the view.

        Args:
            session: the visitor's session.
            url: address of the server.
            model: the model that is chosen so far; it stays chosen where the server has it.

        Returns:
            Updates by component.
        """
        session.inspected = []
        served = await self._fleet[url].served()
        events = await latest_spikes(self._fleet[url])
        return {
            self.model: model_choices(served, model),
            self.event: gr.update(choices=choices_of(events), value=None),
            self.texts: str(empty_journal(_PANES, served, _HINT)),
            self.table: "",
        }

    async def offer_spikes(self, url: str) -> Any:
        """Return the update of the choice of a spike: the latest spikes of a server."""
        return gr.update(choices=choices_of(await latest_spikes(self._fleet[url])))

    def fill_in(self, event: str | None) -> list[Any]:
        """Return text A, prompt A and the checkbox for an event that was chosen (JSON, from `choices_of`)."""
        if not event:
            return [gr.skip()] * 3
        logged = json.loads(event)
        return [logged.get("text", ""), logged.get("prompt", ""), True]


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


def _transcript(title: str, text: Pasted, answer: InspectedText) -> Transcript:
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
