"""`traitwatch report`: the page of a vector."""

from pathlib import Path

import click
from rich.console import Console

from traitwatch_builder.commands.options import CONTEXT, vectors_option


@click.command("report", context_settings=CONTEXT)
@click.argument("trait")
@vectors_option
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    show_default="DIR/<trait>.html",
    help="The page to write.",
)
def report_command(*, trait: str, vectors: Path, out: Path | None) -> None:
    """Write the report of TRAIT: one HTML page that loads nothing, made from the files beside its vector.

    The page holds everything that has been measured, and names the command that measures the rest. No model is needed.

    \b
        traitwatch report paternalism --vectors vectors/SmolLM2-135M-Instruct
    """
    from traitwatch_builder.report.page import write_report

    path = write_report(vectors, trait, out)
    console = Console(stderr=True)
    console.print(f"The report of {trait}, {path.stat().st_size // 1024} KB, for any browser:", highlight=False)
    click.echo(path)
