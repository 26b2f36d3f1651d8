"""`traitwatch respond`: answers under the positive or the negative condition, not judged yet."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from traitwatch_builder.commands.options import (
    CONTEXT,
    check_model_path,
    definition_option,
    definition_places,
    dry_run_option,
    elicit_options,
    interruptible,
    load_definitions,
    make_reader_options,
    make_sampling,
    make_source_options,
    model_option,
    out_option,
    parallel_options,
    sampling_options,
    source_options,
)


@click.command("respond", context_settings=CONTEXT)
@click.argument("trait")
@click.option(
    "--polarity",
    type=click.Choice(["pos", "neg", "both"]),
    default="both",
    help="The condition: positive shows the trait, negative its opposite.",
)
@click.option(
    "--questions",
    "version",
    type=click.Choice(["extract", "eval"]),
    default="extract",
    help="The questions that make the vector, or the questions that test it.",
)
@click.option("--n-per-question", "samples", type=click.IntRange(1), default=10, help="Answers to each question.")
@model_option
@out_option
@definition_option("OUT")
@elicit_options
@sampling_options
@source_options
@parallel_options
@dry_run_option
@interruptible
def respond_command(
    *,
    console: Console,
    trait: str,
    polarity: str,
    version: str,
    samples: int,
    model: str,
    out: Path,
    definition: Path | None,
    elicit: Any,
    assistant_name: str | None,
    dry_run: bool,
    **values: Any,
) -> None:
    """Answer the questions of TRAIT's definition, for `traitwatch judge` to score.

    Answers are spread evenly over the instruction pairs (or groups of examples); row i of the positive file and row i
    of the negative one share question, pair and sample number. Each answer is saved at once.

    \b
        traitwatch respond paternalism --model MODEL --out vectors
        traitwatch respond paternalism --model MODEL --out vectors --endpoint http://a:8000/v1 --endpoint http://b:8000/v1
    """
    sampling, source = make_sampling(values), make_source_options(values)
    extract, evaluate = load_definitions(trait, definition_places(definition, out))
    check_model_path(model)

    from traitwatch_builder.answering.choose import opener
    from traitwatch_builder.answering.respond import Responder, elicited_job
    from traitwatch_builder.definitions.elicitation import POLARITIES, Elicitation
    from traitwatch_builder.reading.session import Session
    from traitwatch_builder.storage.answers import write_answers
    from traitwatch_builder.storage.worklog import Worklog
    from traitwatch_builder.storage.workspace import Workspace, model_directory
    from traitwatch_builder.vectors.held_out import check_definition

    if version == "eval":
        check_definition(trait, extract, evaluate)
    workspace = Workspace(model_directory(out, model), trait)
    session = Session(model, make_reader_options(values), console)
    elicitation = Elicitation(extract, elicit, trait, assistant_name)
    rows = elicitation.rows((extract if version == "extract" else evaluate).questions, samples)
    prefix = "" if version == "extract" else "eval_"
    jobs = [
        elicited_job(prefix + side, trait, elicitation, rows, side) for side in POLARITIES if polarity in (side, "both")
    ]
    with workspace.alone(), Worklog(workspace.log("answers")) as log:
        responder = Responder(
            session.tokenizer, source.identity(session.fingerprint), sampling, opener(session, source), console
        )
        if dry_run:
            for job in jobs:
                console.print(f"answers: {job.name}: {responder.plan(job, log)}")
            return
        answers = responder.run([(job, log) for job in jobs])
        for job in jobs:
            write_answers(workspace.answers(job.name), trait, responder.rows(job, answers[job.name]))
            console.print(f"{len(rows)} answers in {workspace.answers(job.name)}")
