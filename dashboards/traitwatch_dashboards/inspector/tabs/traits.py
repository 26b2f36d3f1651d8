"""The tab Traits: a card for each loaded trait with the evidence for its vector, and the cosines between vectors."""

from collections.abc import Sequence
from importlib.resources import files
from urllib.parse import quote

import gradio as gr
import jinja2

from traitwatch_dashboards.inspector.api.client import Served
from traitwatch_dashboards.inspector.api.traits import Trait
from traitwatch_dashboards.inspector.scored.tables import cosines, number
from traitwatch_dashboards.inspector.tabs.components import fragment
from traitwatch_dashboards.inspector.tabs.page import QUIET, Page, problem_with, server_choice

_ENVIRONMENT = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)


class TraitsTab:
    """The components of the tab, and the method that shows the traits of a server.

    Attributes:
        server: the choice of a server.
        cards: the cards and the matrix of cosines.
    """

    def __init__(self, page: Page, tab: gr.Tab):
        """Build the tab where a layout is open.

        Args:
            page: the page.
            tab: the tab; the cards are read anew when a visitor opens it.
        """
        self._fleet = page.fleet
        self.server = server_choice(page.fleet)
        self.cards = fragment(elem_id="traits")
        for trigger in (tab.select, self.server.change, page.blocks.load):
            trigger(self.show_server, self.server, self.cards, **QUIET)

    async def show_server(self, url: str) -> str:
        """Return the cards and the matrix of a server, as HTML."""
        server = self._fleet[url]
        return cards_html(await server.served(), self._fleet.urls.index(server.url))


def cards_html(served: Served, server: int) -> str:
    """Return a card for each trait and the matrix of cosines, as HTML.

    Args:
        served: the models and traits of a server.
        server: number of the server among the servers of the page; it is part of the addresses of reports.
    """
    traits = [
        (trait, _facts(trait), f"traitwatch/report/{server}/{quote(trait.name)}" if trait.report else "")
        for trait in served.traits
    ]
    template = _ENVIRONMENT.from_string((files(__package__) / "traits.html").read_text("utf-8"))
    return template.render(problem=problem_with(served), traits=traits, rows=_matrix(served.traits))


def _facts(trait: Trait) -> list[tuple[str, str]]:
    evidence = trait.verification
    facts = [("layer", str(trait.layer))]
    if evidence.get("auc") is not None:
        facts.append(("held-out AUC there", number(evidence["auc"])))
    if evidence.get("best_layer") is not None:
        facts.append(("best layer", str(evidence["best_layer"])))
    if trait.calibrated:
        facts.append(("neutral tokens", f"{number(trait.mean)} ± {number(trait.std)}"))
        facts.append(("calibrated", trait.calibration_date or "at an unknown time"))
    else:
        facts.append(("calibrated", "no: it has no z. Run traitwatch calibrate"))
    if trait.stale:
        facts.append(("weights", "replaced since the vector was loaded: its scores may mean something else"))
    facts.append(("spike above z", "none" if trait.threshold is None else number(trait.threshold)))
    return facts


def _matrix(traits: Sequence[Trait]) -> list[tuple[str, list[tuple[str, str, int]]]]:
    """Return the name and the cells of each row. A cell: text, side of zero (`h`, `l`), strength of its colour in %."""
    if len(traits) < 2 or not any(trait.cosines for trait in traits):
        return []
    table = cosines(traits)
    return [
        (
            str(name),
            [
                (number(value), "h" if value > 0 else "l", round(min(1.0, abs(value)) * 100) if value == value else 0)
                for value in map(float, row)
            ],
        )
        for name, row in zip(table.index, table.to_numpy(), strict=True)
    ]
