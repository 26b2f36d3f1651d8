"""The state of one visitor of the page. Visitors share no state, and the state ends with the visit."""

from collections import deque
from dataclasses import dataclass, field

from traitwatch_dashboards.inspector.api.traffic import TrafficSample
from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText
from traitwatch_dashboards.inspector.scored.journal import Journal
from traitwatch_dashboards.inspector.scored.running import Generations
from traitwatch_dashboards.inspector.scored.transcript import Transcript


@dataclass
class VisitorSession:
    """The state of one visitor.

    Attributes:
        chat: the conversation of the tab Chat.
        chat_journal: the journal of the view of the tab Chat.
        chat_running: the generation of the tab Chat.
        panes: the panes of the tab Compare.
        compare_running: the generations of the tab Compare.
        inspected: the texts of the tab Inspect.
        samples: the samples of the tab Live, by the address of the server.
    """

    chat: Transcript = field(default_factory=Transcript)
    chat_journal: Journal = field(default_factory=Journal)
    chat_running: Generations = field(default_factory=Generations)
    panes: list[Transcript] = field(default_factory=list)
    compare_running: Generations = field(default_factory=Generations)
    inspected: list[Transcript] = field(default_factory=list)
    samples: dict[str, deque[TrafficSample]] = field(default_factory=dict)

    def stop(self) -> None:
        """End all generations."""
        self.chat_running.stop()
        self.compare_running.stop()


def titled_answers(panes: list[Transcript]) -> list[tuple[str, InspectedText]]:
    """Return the last scored text of each pane, with the pane's title."""
    return [(pane.title, pane.answers[-1]) for pane in panes if pane.answers]
