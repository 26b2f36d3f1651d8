"""`traitwatch extract`: persona vectors out of two judged answers files."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from traitwatch_builder.commands.options import (
    CONTEXT,
    EXISTING_FILE,
    check_model_path,
    interruptible,
    make_reader_options,
    model_option,
    out_option,
    pair_options,
    reader_options,
)


@click.command("extract", context_settings=CONTEXT)
@click.argument("trait")
@model_option
@click.option("--pos", type=EXISTING_FILE, required=True, help="Judged answers under the positive condition.")
@click.option(
    "--neg", type=EXISTING_FILE, required=True, help="Judged answers under the negative condition, in the same order."
)
@out_option
@pair_options
@reader_options
@interruptible
def extract_command(
    *,
    console: Console,
    trait: str,
    model: str,
    pos: Path,
    neg: Path,
    out: Path,
    threshold: float,
    coherence: float,
    read_under: Any,
    **values: Any,
) -> None:
    """Make the persona vectors of TRAIT: mean hidden states of the effective pairs, subtracted, at every layer.

    The files may come from `traitwatch judge` or from the Persona Vectors authors' code. Three vectors are written,
    float32 [num_layers + 1, hidden_size], and a card.

    \b
        traitwatch extract evil --model MODEL --pos evil_pos.csv --neg evil_neg.csv --out vectors
    """
    check_model_path(model)

    from traitwatch_builder.reading.session import open_session
    from traitwatch_builder.steps import ExtractOptions, Provenance, extract_step
    from traitwatch_builder.storage.workspace import Workspace, model_directory

    workspace = Workspace(model_directory(out, model), trait)
    options = ExtractOptions(threshold, coherence, read_under or "prompt")
    with workspace.alone(), open_session(model, make_reader_options(values), console) as opened:
        card = extract_step(opened, workspace, pos, neg, options, Provenance())
    console.print(f"Vectors of {card.counts['effective_pairs']} pairs, and a card, in {workspace.directory}")
