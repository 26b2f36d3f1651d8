"""`traitwatch verify`: test a vector on held-out answers."""

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
    reader_options,
    vectors_option,
)


@click.command("verify", context_settings=CONTEXT)
@click.argument("trait")
@model_option
@vectors_option
@click.option(
    "--eval-pos",
    type=EXISTING_FILE,
    show_default="beside the vector",
    help="Positive answers to questions that took no part in making the vector.",
)
@click.option(
    "--eval-neg", type=EXISTING_FILE, show_default="beside the vector", help="Negative answers to these questions."
)
@reader_options
@interruptible
def verify_command(
    *,
    console: Console,
    trait: str,
    model: str,
    vectors: Path,
    eval_pos: Path | None,
    eval_neg: Path | None,
    **values: Any,
) -> None:
    """Test the vector of TRAIT on held-out answers and against chance, layer by layer; the card gets the result.

    The command measures the AUC of response and prompt-last projections, the correlation with the judge overall and
    within each condition, the length against vectors from shuffled labels, and the cosine of two halves of the
    questions.
    `traitwatch build` and `respond --questions eval` make the held-out answers.
    """
    check_model_path(model)

    from traitwatch_builder.reading.session import open_session
    from traitwatch_builder.report.summary import verification_table
    from traitwatch_builder.steps import verify_step
    from traitwatch_builder.storage.tables import table_file
    from traitwatch_builder.storage.workspace import Workspace

    workspace = Workspace(vectors, trait)
    pos = eval_pos or table_file(workspace.answers("eval_pos"))
    neg = eval_neg or table_file(workspace.answers("eval_neg"))
    with workspace.alone(), open_session(model, make_reader_options(values), console) as opened:
        card = verify_step(opened, workspace, pos, neg)
    console.print(verification_table(card))
    assert card.verification is not None, "verify_step verifies"
    console.print(card.verification.verdict)
