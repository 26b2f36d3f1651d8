"""The pages of docs/reference, the pictures and the numbers of the figures agree with the code."""

import json
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from scripts.figures.data import IMAGES, cards, load_measured
from scripts.figures.diagrams import diagrams
from scripts.figures.numbers import numbers
from scripts.reference.api import document
from scripts.reference.markdown import fill
from scripts.reference.pages import DIRECTORY, PAGES, filled_page
from traitwatch.cli import COMMANDS
from traitwatch_builder.storage.answers import TEXT_COLUMNS, JudgedAnswer, NeutralAnswer, write_answers, write_neutral
from traitwatch_server.metrics import Metrics


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_the_tables_that_the_code_makes(name: str) -> None:
    assert (DIRECTORY / name).read_text() == filled_page(name), "run `python -m scripts.reference`"


def test_the_code_makes_every_page_of_the_reference() -> None:
    assert {path.name for path in DIRECTORY.glob("*.md")} == set(PAGES)


def test_a_page_without_the_region_is_an_error() -> None:
    with pytest.raises(ValueError, match="has the regions"):
        fill("no region", {"commands": "text"})


def test_every_command_and_option_is_there() -> None:
    page = (DIRECTORY / "cli.md").read_text()
    headings = {line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")}
    assert headings == set(COMMANDS)
    assert "`--traits-spike-rate RATE`" in page


def test_every_metric_family_is_there() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    page = (DIRECTORY / "metrics.md").read_text()
    families = {f"{f.name}_total" if f.type == "counter" else f.name for f in registry.collect()}
    missing = {family for family in families if f"\n| `{family}` |" not in page}
    assert families
    assert not missing


def test_every_route_is_there() -> None:
    page = (DIRECTORY / "api.md").read_text()
    for path, operations in document()["paths"].items():
        for method in operations:
            assert f"`{method.upper()} {path}`" in page


def test_the_columns_of_the_answers_are_those_of_the_page(tmp_path: Path) -> None:
    page = (DIRECTORY / "artifacts.md").read_text()
    write_answers(tmp_path / "a.csv", "kindness", [JudgedAnswer("q", "p", "a", "kindness_0_pos_0", 1.0, 2.0)])
    write_neutral(tmp_path / "n.csv", [NeutralAnswer("q", "p", "a", "neutral_0", finished=True)])
    header = (tmp_path / "a.csv").read_text().splitlines()[0].replace("kindness", "<trait>")
    listed = [line.split("`")[1] for line in page.split("## Answers")[1].splitlines() if line.startswith("| `")][:6]
    assert header == ",".join(f'"{column}"' for column in listed)
    assert (tmp_path / "n.csv").read_text().splitlines()[0] == ",".join(
        f'"{column}"' for column in (*TEXT_COLUMNS, "finished")
    )


def test_the_pictures_are_those_that_the_code_draws() -> None:
    for name, svg in diagrams().items():
        assert (IMAGES / name).read_text("utf-8") == svg, "run `python -m scripts.figures draw`"


def test_the_quoted_numbers_are_those_of_the_figures() -> None:
    assert json.loads((IMAGES / "figures.json").read_text()) == numbers(load_measured(), cards())
