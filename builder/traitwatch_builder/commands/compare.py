"""`traitwatch compare`: cosines between vectors."""

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from traitwatch_builder.commands.options import CONTEXT, DIRECTORY


@click.command("compare", context_settings=CONTEXT)
@click.option(
    "--vectors",
    "first",
    type=DIRECTORY,
    multiple=True,
    required=True,
    metavar="DIR [DIR...]",
    help="Directories of persona vectors, with cards or without.",
)
@click.argument("more", type=DIRECTORY, nargs=-1, metavar="")
@click.option("--traits", help="Traits to compare, in this order, separated by commas.", show_default="all")
@click.option("--layer", type=int, help="Layer index.", show_default="20, or the last of fewer")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for the heat map (.png, .svg, .html) or the numbers (.csv).",
)
def compare_command(
    *, first: tuple[Path, ...], more: tuple[Path, ...], traits: str | None, layer: int | None, out: Path | None
) -> None:
    """Show the cosines between persona vectors at a layer.

    \b
        traitwatch compare --vectors vectors/SmolLM2-135M-Instruct --layer 20 --out cosines.html
    """
    from traitwatch_builder.report.compare import check_format, compare_vectors, write_comparison

    if out is not None:
        check_format(out)
    chosen = [name.strip() for name in traits.split(",") if name.strip()] if traits is not None else None
    comparison = compare_vectors([*first, *more], chosen, layer)
    table = Table(title=f"Cosine between persona vectors, layer {comparison.layer}", title_justify="left")
    table.add_column("", no_wrap=True)
    for name in comparison.names:
        table.add_column(name, justify="right", min_width=5, overflow="fold")
    for name, row in zip(comparison.names, comparison.cosines, strict=True):
        table.add_row(name, *(f"{value:.2f}" for value in row))
    # The table is the result, so it goes to stdout; piped, it must not be cut to a terminal's width.
    Console(width=None if sys.stdout.isatty() else 1000).print(table)
    if out is not None:
        write_comparison(comparison, out)
        Console(stderr=True).print(f"Written to {out}.", highlight=False)
