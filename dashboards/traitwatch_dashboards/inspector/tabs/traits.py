"""The tab Traits: what is loaded, how far each vector can be trusted, and how alike they are."""

from collections.abc import Sequence
from importlib.resources import files
from urllib.parse import quote

import gradio as gr
import jinja2

from traitwatch_dashboards.inspector.api.client import Served
from traitwatch_dashboards.inspector.api.traits import Trait
from traitwatch_dashboards.inspector.scored.tables import cosines, number
from traitwatch_dashboards.inspector.tabs.components import fragment
from traitwatch_dashboards.inspector.tabs.page import QUIET, Page, problem_with

_ENVIRONMENT = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)


def traits_tab(page: Page, tab: gr.Tab) -> None:
    """Build the tab where a layout is open."""
    urls = page.fleet.urls
    server = gr.Dropdown(urls, value=urls[0], label="Server", visible=len(urls) > 1)
    cards = fragment(elem_id="traits")

    async def show(url: str) -> str:
        chosen = page.fleet[url]
        return cards_html(await chosen.served(), urls.index(chosen.url))

    for trigger in (tab.select, server.change, page.blocks.load):
        trigger(show, server, cards, **QUIET)


def cards_html(served: Served, server: int) -> str:
    """Return a card a trait and the matrix of cosines, as HTML.

    Args:
        served: what the server serves.
        server: its number among those of the page, in the addresses of reports.
    """
    traits = [
        (trait, _facts(trait), f"traitwatch/report/{server}/{quote(trait.name)}" if trait.report else "")
        for trait in served.traits
    ]
    template = _ENVIRONMENT.from_string((files(__package__) / "traits.html").read_text())
    return template.render(problem=problem_with(served), traits=traits, rows=_matrix(served.traits))


def _facts(trait: Trait) -> list[tuple[str, str]]:
    known = trait.verification
    facts = [("layer", str(trait.layer))]
    if known.get("auc") is not None:
        facts.append(("held-out AUC there", number(known["auc"])))
    if known.get("best_layer") is not None:
        facts.append(("best layer", str(known["best_layer"])))
    if trait.calibrated:
        facts.append(("neutral tokens", f"{number(trait.mean)} ± {number(trait.std)}"))
        facts.append(("calibrated", trait.calibration_date or "at an unknown time"))
    else:
        facts.append(("calibrated", "no: it has no z. Run traitwatch calibrate"))
    facts.append(("spike above z", "none" if trait.threshold is None else number(trait.threshold)))
    return facts


def _matrix(traits: Sequence[Trait]) -> list[tuple[str, list[tuple[str, str, int]]]]:
    """Return the cosines, row by row: what each cell says, on which side of zero it is, and how full its colour is."""
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
