"""The row of buttons with which what is shown is saved: JSON, CSV, a page to share, and the plot as PNG."""

from collections.abc import Callable

import gradio as gr

from traitwatch_dashboards.inspector.export.export import FORMATS, exported
from traitwatch_dashboards.inspector.scored.session import Session
from traitwatch_dashboards.inspector.scored.transcript import Transcript
from traitwatch_dashboards.inspector.tabs.page import QUIET


def save_row(session: gr.State, name: str, panes: Callable[[Session], list[Transcript]]) -> None:
    """Build the buttons of the view `name` where a row is open.

    The browser makes the file of what it is sent: none is left on this side's disk.

    Args:
        session: the component that holds the visitor's session.
        name: of the view.
        panes: returns what is saved of a session.
    """
    file = gr.Textbox(visible=False)
    for kind, label in FORMATS.items():
        button = gr.Button(label, size="sm", min_width=84, elem_id=f"{name}-save-{kind}")
        made = button.click(_maker(kind, panes), session, file, **QUIET)
        made.then(None, file, None, js="(file) => window.Traitwatch.save(file)", **QUIET)
    picture = gr.Button("Save plot", size="sm", min_width=84, elem_id=f"{name}-save-png")
    picture.click(None, None, None, js=f"() => window.Traitwatch.savePlot('{name}')", **QUIET)


def _maker(kind: str, panes: Callable[[Session], list[Transcript]]) -> Callable[[Session], str]:
    def make(session: Session) -> str:
        held = [pane for pane in panes(session) if pane.answers]
        if not held:
            gr.Info("There is nothing to save yet: ask something first.")
            return ""
        return exported(kind, held)

    return make
