"""The commands `measure` and `draw`: see `scripts.figures`."""

import json
from pathlib import Path

import click
from rich.console import Console

from traitwatch.files import write_atomically
from traitwatch_builder.models.embedded import EMBEDDED_MODEL, embedded_model

from .data import IMAGES, Measured, cards, load_measured, save_measured
from .diagrams import diagrams
from .numbers import numbers
from .plots import figures
from .reading import answer_means
from .served import served_answers

_SEED = 0


@click.group()
def main() -> None:
    """Measure and draw the figures of docs/explanation."""


@main.command()
def measure() -> None:
    """Serve the demo's chats, read the shipped answers, and write both results into docs/images/measured.json."""
    console = Console()
    model = embedded_model()
    means = answer_means(console, model)
    save_measured(Measured(model=EMBEDDED_MODEL, seed=_SEED, served=served_answers(console, model, _SEED), means=means))


@main.command()
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=IMAGES, help="The directory of the figures."
)
def draw(*, out: Path) -> None:
    """Write the figures, figures.json and the pictures of the architecture into a directory."""
    measured, shipped = load_measured(), cards()
    quoted = json.dumps(numbers(measured, shipped), indent=1).encode() + b"\n"
    write_atomically(out / "figures.json", quoted)
    for name, svg in {**figures(measured, shipped), **diagrams()}.items():
        write_atomically(out / name, svg.encode())


if __name__ == "__main__":
    main()
