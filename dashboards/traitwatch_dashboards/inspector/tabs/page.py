"""What the tabs of the page share: the servers, the visitor's session, and the manner of events."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from traitwatch_dashboards.inspector.api.client import Served, Server

NO_TRAITS = (
    "This server has no traits loaded, so nothing is scored. Start it with `traitwatch serve MODEL --traits DIR`, or "
    "load one with POST /v1/traits/NAME."
)

# Of every event: no spinner over what is being read, and no endpoint for programs (the server's own API is there).
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


class Fleet:
    """The servers that the page was started for. It speaks to no others, whatever a browser asks for."""

    def __init__(self, servers: Sequence[Server]):
        self._servers = {server.url: server for server in servers}

    @property
    def urls(self) -> list[str]:
        """Their addresses."""
        return list(self._servers)

    def __getitem__(self, url: str) -> Server:
        """Return a server by its address, or the first where there is none of that address."""
        return self._servers.get(url) or next(iter(self._servers.values()))

    def name_of(self, model: str, server: Server) -> str:
        """Return what a reader is told of who answered: the model, and its server where there are several."""
        return f"{model} at {server.url}" if len(self._servers) > 1 else model


@dataclass(frozen=True)
class Page:
    """The page that is being built.

    Attributes:
        fleet: the servers.
        session: the component that holds the visitor's `Session`.
        blocks: the page.
    """

    fleet: Fleet
    session: gr.State
    blocks: gr.Blocks


def problem_with(served: Served) -> str:
    """Return why nothing can be scored; empty where all is well."""
    return served.problem or ("" if served.traits else NO_TRAITS)


def send_row(placeholder: str, name: str) -> tuple[gr.Textbox, gr.Button, gr.Button]:
    """Return a box for a message (Enter sends, Shift+Enter breaks the line) with its buttons Send and Stop."""
    with gr.Row(elem_classes="tw-send"):
        box = gr.Textbox(
            placeholder=placeholder,
            label="Message",
            show_label=False,
            container=False,
            lines=1,
            max_lines=6,
            scale=8,
            elem_id=f"{name}-message",
        )
        send = gr.Button("Send", variant="primary", scale=1, elem_id=f"{name}-send")
        stop = gr.Button(
            "Stop · Esc", variant="stop", scale=1, visible=False, elem_id=f"{name}-stop", elem_classes="tw-stop"
        )
    return box, send, stop


def busy(send: gr.Button, stop: gr.Button, is_busy: bool) -> dict[Any, Any]:
    """Return the updates with which Stop takes the place of Send, or gives it back."""
    return {send: gr.update(visible=not is_busy), stop: gr.update(visible=is_busy)}
