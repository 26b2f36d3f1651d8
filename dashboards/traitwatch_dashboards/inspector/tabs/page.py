"""What all tabs share: the servers, the page, the row with Send and Stop, and the view before its first text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from traitwatch_dashboards.inspector.api.client import Served, Server
from traitwatch_dashboards.inspector.scored.journal import Journal

NO_TRAITS = (
    "This server has no traits loaded, so nothing is scored. Start it with `traitwatch serve MODEL --traits DIR`, or "
    "load one with POST /v1/traits/NAME."
)

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Options of every event: no spinner over the text that a visitor reads, and no endpoint for programs.

Programs use the server's own API.
"""


class Fleet:
    """The servers that the page was started for. The page speaks to no other server, whatever a browser asks for."""

    def __init__(self, servers: Sequence[Server]):
        """Hold the servers.

        Args:
            servers: at least one; the first is the default.
        """
        self._servers = {server.url: server for server in servers}

    @property
    def urls(self) -> list[str]:
        """Addresses of the servers, in order."""
        return list(self._servers)

    def __getitem__(self, url: str) -> Server:
        """Return the server with this address, or the first server where none has it."""
        return self._servers.get(url) or next(iter(self._servers.values()))

    def name_of(self, model: str, server: Server) -> str:
        """Return the label of an answer: its model, and the server where there are several servers."""
        return f"{model} at {server.url}" if len(self._servers) > 1 else model


@dataclass(frozen=True)
class Page:
    """The page that is being built.

    Attributes:
        fleet: the servers.
        session: the component that holds the visitor's `VisitorSession`.
        blocks: the page.
    """

    fleet: Fleet
    session: gr.State
    blocks: gr.Blocks


class SendRow:
    """A box for a message with the buttons Send and Stop. Enter sends; Shift+Enter breaks the line.

    Attributes:
        message: the box.
        send: the button Send.
        stop: the button Stop; it is visible while an answer is generated.
    """

    def __init__(self, placeholder: str, name: str):
        """Build the row where a layout is open.

        Args:
            placeholder: text of the empty box.
            name: of the view; the ids of the components begin with it.
        """
        with gr.Row(elem_classes="tw-send"):
            self.message = gr.Textbox(
                placeholder=placeholder,
                label="Message",
                show_label=False,
                container=False,
                lines=1,
                max_lines=6,
                scale=8,
                elem_id=f"{name}-message",
            )
            self.send = gr.Button("Send", variant="primary", scale=1, elem_id=f"{name}-send")
            self.stop = gr.Button(
                "Stop · Esc", variant="stop", scale=1, visible=False, elem_id=f"{name}-stop", elem_classes="tw-stop"
            )

    def busy(self, is_busy: bool) -> dict[Any, Any]:
        """Return the updates that show Stop in the place of Send, or Send again."""
        return {self.send: gr.update(visible=not is_busy), self.stop: gr.update(visible=is_busy)}


def server_choice(fleet: Fleet, **options: Any) -> gr.Dropdown:
    """Return the choice of a server, where a layout is open; it is visible only where there are several servers."""
    urls = fleet.urls
    return gr.Dropdown(urls, value=urls[0], label="Server", visible=len(urls) > 1, **options)


def problem_with(served: Served) -> str:
    """Return the reason for which this server can score nothing; empty where it can."""
    return served.problem or ("" if served.traits else NO_TRAITS)


def empty_journal(panes: Sequence[str], served: Served, hint: str, *, focus: str = "") -> Journal:
    """Return the journal of a view before its first text: the hint, and the server's problem, if it has one."""
    journal = Journal(panes, served.traits, hint=hint, focus=focus)
    if problem_with(served):
        journal.note(problem_with(served), bad=True)
    return journal
