"""Lists the pages of docs/reference, and the tables of each page."""

from collections.abc import Callable, Mapping
from pathlib import Path

from . import api, artifacts, cli, metrics
from .markdown import fill

DIRECTORY = Path(__file__).parents[2] / "docs" / "reference"

_Regions = Mapping[str, Callable[[], str]]
PAGES: Mapping[str, _Regions] = {
    "cli.md": {"commands": cli.commands},
    "api.md": {
        "request": lambda: api.schemas("TraitsField"),
        "answer": lambda: api.schemas("TraitScores", "TraitSpike", "TraitPart"),
        "routes": api.routes,
        "route-fields": lambda: api.schemas(
            "TraitList",
            "TraitInfo",
            "TraitThreshold",
            "LayerCalibration",
            "SpikeThreshold",
            "TraitVerification",
            "LoadRequest",
            "TraitDeleted",
            "SpikeList",
            "SpikeEvent",
            "ErrorResponse",
            "ErrorInfo",
        ),
    },
    "metrics.md": {"families": metrics.families},
    "artifacts.md": {"definition": artifacts.definition, "card": artifacts.card},
}


def filled_page(name: str) -> str:
    """Return a page of `PAGES` with new tables."""
    return fill((DIRECTORY / name).read_text(), {region: make() for region, make in PAGES[name].items()})
