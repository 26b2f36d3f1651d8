"""What one visitor of the page has: nothing of it is shared with another, or outlives the visit."""

from collections import deque
from dataclasses import dataclass, field

from traitwatch_dashboards.inspector.api.traffic import TrafficSample
from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText
from traitwatch_dashboards.inspector.scored.journal import Journal
from traitwatch_dashboards.inspector.scored.running import Generations
from traitwatch_dashboards.inspector.scored.transcript import Transcript


@dataclass
class VisitorSession:
    """The state of one visit.

    Attributes:
        chat: the conversation of the tab Chat.
        chat_journal: what its view shows.
        chat_running: what is being generated there.
        panes: what the tab Compare holds.
        compare_running: what is being generated there.
        inspected: the texts of the tab Inspect.
        samples: what the tab Live has seen of each server, by address.
    """

    chat: Transcript = field(default_factory=Transcript)
    chat_journal: Journal = field(default_factory=Journal)
    chat_running: Generations = field(default_factory=Generations)
    panes: list[Transcript] = field(default_factory=list)
    compare_running: Generations = field(default_factory=Generations)
    inspected: list[Transcript] = field(default_factory=list)
    samples: dict[str, deque[TrafficSample]] = field(default_factory=dict)

    def stop(self) -> None:
        """End whatever is being generated."""
        self.chat_running.stop()
        self.compare_running.stop()


def titled_answers(panes: list[Transcript]) -> list[tuple[str, InspectedText]]:
    """Return the last scored text of each pane, with the pane's title."""
    return [(pane.title, pane.answers[-1]) for pane in panes if pane.answers]
