"""The row of buttons that save a view: as JSON, as CSV, as a page to share, and the plot as PNG."""

from collections.abc import Callable
from functools import partial

import gradio as gr

from traitwatch_dashboards.inspector.export.export import SAVE_BUTTONS, exported
from traitwatch_dashboards.inspector.scored.session import VisitorSession
from traitwatch_dashboards.inspector.scored.transcript import Transcript
from traitwatch_dashboards.inspector.tabs.page import QUIET


def save_row(session: gr.State, name: str, panes: Callable[[VisitorSession], list[Transcript]]) -> None:
    """Build the buttons of the view `name` where a row is open.

    The browser writes the file from the text that it gets. No file is left on the disk of this side.

    Args:
        session: the component that holds the visitor's session.
        name: of the view.
        panes: returns the panes of a session that are saved.
    """
    file = gr.Textbox(visible=False)
    for kind, label in SAVE_BUTTONS.items():
        button = gr.Button(label, size="sm", min_width=84, elem_id=f"{name}-save-{kind}")
        written = button.click(partial(file_of, kind, panes), session, file, **QUIET)
        written.then(None, file, None, js="(file) => window.Traitwatch.save(file)", **QUIET)
    picture = gr.Button("Save plot", size="sm", min_width=84, elem_id=f"{name}-save-png")
    picture.click(None, None, None, js=f"() => window.Traitwatch.savePlot('{name}')", **QUIET)


def file_of(kind: str, panes: Callable[[VisitorSession], list[Transcript]], session: VisitorSession) -> str:
    """Return the file of the panes that have an answer, as `exported` does; empty, with a notice, where none has."""
    answered = [pane for pane in panes(session) if pane.answers]
    if not answered:
        gr.Info("There is nothing to save yet: ask something first.")
        return ""
    return exported(kind, answered)
