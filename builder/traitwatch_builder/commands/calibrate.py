"""`traitwatch calibrate`: the baseline that turns projections into z, and the thresholds of spikes."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from traitwatch_builder.commands.options import (
    CONTEXT,
    EXISTING_FILE,
    check_model_path,
    dry_run_option,
    interruptible,
    make_reader_options,
    make_sampling,
    make_source_options,
    model_option,
    reader_options,
    sampling_options,
    source_options,
    vectors_option,
)
from traitwatch_builder.definitions.definition import SHIPPED_DEFINITIONS


@click.command("calibrate", context_settings=CONTEXT)
@click.argument("trait")
@model_option
@vectors_option
@click.option(
    "--neutral-prompts",
    type=EXISTING_FILE,
    default=SHIPPED_DEFINITIONS / "neutral_prompts.json",
    show_default="the shipped ones",
    help='File with at least 100 prompts of ordinary users, {"prompts": [...]}.',
)
@sampling_options
@source_options
@reader_options
@dry_run_option
@interruptible
def calibrate_command(
    *,
    console: Console,
    trait: str,
    model: str,
    vectors: Path,
    neutral_prompts: Path,
    dry_run: bool,
    **values: Any,
) -> None:
    """Measure the vector of TRAIT on neutral answers: mean and spread per layer, and spike thresholds.

    Sample the answers like your traffic (--temperature, --top-p): other sampling gives another baseline, and other z.
    The answers are saved in neutral.csv, and all vectors of the directory share them.
    """
    sampling, source = make_sampling(values), make_source_options(values)
    check_model_path(model)

    from traitwatch_builder.answering.choose import opener
    from traitwatch_builder.answering.respond import Responder, neutral_job
    from traitwatch_builder.pipeline import NEUTRAL_SAMPLES, neutral_rows
    from traitwatch_builder.progress import warn
    from traitwatch_builder.reading.session import open_session
    from traitwatch_builder.report.summary import calibration_table
    from traitwatch_builder.steps import calibrate_step
    from traitwatch_builder.storage.answers import LEAST_PROMPTS, load_neutral_prompts, write_neutral
    from traitwatch_builder.storage.worklog import Worklog
    from traitwatch_builder.storage.workspace import Workspace

    workspace = Workspace(vectors, trait)
    prompts = load_neutral_prompts(neutral_prompts)
    if len(prompts) < LEAST_PROMPTS:
        warn(console, f"{len(prompts)} neutral prompts are few; thresholds need {LEAST_PROMPTS}.")
    with workspace.alone(), open_session(model, make_reader_options(values), console) as opened:
        responder = Responder(
            opened.tokenizer, source.identity(opened.fingerprint), sampling, opener(opened, source), console
        )
        job = neutral_job(prompts, NEUTRAL_SAMPLES)
        with workspace.neutral_alone(console), Worklog(workspace.neutral_log) as log:
            if dry_run:
                console.print(f"answers: {job.name}: {responder.plan(job, log)}")
                return
            answers = responder.run([(job, log)])
            neutral = neutral_rows(responder, job, answers[job.name])
            write_neutral(workspace.neutral, neutral)
        card = calibrate_step(opened, workspace, neutral)
    console.print(calibration_table(card))
