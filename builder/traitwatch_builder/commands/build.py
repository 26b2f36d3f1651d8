"""`traitwatch build`: from a trait's name to a validated persona vector, in one command."""

import os
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from traitwatch_builder.commands.options import (
    CONTEXT,
    check_model_path,
    definition_option,
    definition_places,
    elicit_options,
    interruptible,
    judge_options,
    load_definitions,
    make_judge_options,
    make_reader_options,
    make_sampling,
    make_source_options,
    model_option,
    out_option,
    pair_options,
    read_under_of,
    reader_options,
    sampling_options,
    source_options,
)
from traitwatch_builder.definitions.define import DEFAULT_CLAUDE_MODEL
from traitwatch_builder.definitions.definition import SHIPPED_DEFINITIONS


@click.command("build", context_settings=CONTEXT)
@click.argument("trait")
@click.option(
    "--description",
    help="What you mean by the trait. With it, Claude writes the definition into OUT (ANTHROPIC_API_KEY), unless one "
    "is there; without it one in OUT or a shipped one is used.",
)
@click.option("--claude-model", default=DEFAULT_CLAUDE_MODEL, help="The Claude model that writes the definition.")
@model_option
@out_option
@definition_option("OUT")
@elicit_options
@click.option("--n-per-question", "samples", type=click.IntRange(1), default=10, help="Answers to each question.")
@sampling_options
@source_options
@judge_options
@pair_options
@reader_options
@click.option("--dry-run", is_flag=True, help="Print what would be made and what it would cost, and make nothing.")
@interruptible
def build_command(
    *,
    console: Console,
    trait: str,
    description: str | None,
    claude_model: str,
    model: str,
    out: Path,
    definition: Path | None,
    elicit: Any,
    assistant_name: str | None,
    samples: int,
    threshold: float,
    coherence: float,
    read_under: Any,
    dry_run: bool,
    **values: Any,
) -> None:
    """Build the persona vector of TRAIT for a model: define, respond, judge, extract, verify, calibrate, report.

    Answers are generated under a positive and a negative condition and scored; the hidden states of the effective pairs
    are averaged and subtracted, for all layers; the vector is verified on questions that it has not seen and calibrated
    on neutral prompts. An interrupted build goes on where it stopped: nothing is generated, judged or read twice.

    \b
        traitwatch build paternalism --model meta-llama/Llama-3.1-8B-Instruct --out vectors
        traitwatch build sycophancy --description "telling people what they want to hear" --model MODEL --out vectors
        traitwatch build paternalism --model "$(traitwatch model)" --elicit many-shot \\
            --temperature 0.7 --top-p 0.9 --max-tokens 80 --out vectors
    """
    from traitwatch.vectors import check_trait_name

    check_trait_name(trait)
    sampling, source, judge_of = make_sampling(values), make_source_options(values), make_judge_options(values)
    reading = make_reader_options(values)
    check_model_path(model)

    from traitwatch_builder.pipeline import Build, BuildOptions
    from traitwatch_builder.reading.session import open_session
    from traitwatch_builder.report.page import write_report
    from traitwatch_builder.report.summary import build_table
    from traitwatch_builder.steps import ExtractOptions
    from traitwatch_builder.storage.answers import load_neutral_prompts
    from traitwatch_builder.storage.workspace import Workspace, card_model_name, model_directory

    workspace = Workspace(model_directory(out, model), trait)
    # A description asks for a definition of its own, so a shipped one does not count.
    places = [out] if description and not definition else definition_places(definition, out)
    # Claude writes a definition into OUT, and only where the user named no directory of definitions.
    if definition is None and not _defined(console, trait, description, claude_model, out, places, dry_run):
        return
    extract, evaluate = load_definitions(trait, places)
    options = BuildOptions(
        elicit=elicit,
        assistant_name=assistant_name,
        samples=samples,
        sampling=sampling,
        source=source,
        judge=judge_of,
        extract=ExtractOptions(threshold, coherence, read_under_of(read_under, elicit)),
    )
    neutral = load_neutral_prompts(SHIPPED_DEFINITIONS / "neutral_prompts.json")
    with workspace.alone(), open_session(model, reading, console) as opened:
        work = Build(opened, workspace, extract, evaluate, neutral, options)
        if dry_run:
            table = Table("step", "what it would take", title=f"{trait} for {card_model_name(model)}, dry run")
            for line in work.plan():
                table.add_row(*line)
            console.print(table)
            return
        card = work.run()
    write_report(workspace.directory, trait)
    console.print(build_table(card, workspace.directory))


def _defined(
    console: Console,
    trait: str,
    description: str | None,
    claude_model: str,
    out: Path,
    places: list[Path],
    dry_run: bool,
) -> bool:
    """Ask Claude for the definition where there is none; return whether there is a definition now."""
    from traitwatch_builder.commands.define import ask_claude, tell_dry_run
    from traitwatch_builder.errors import PipelineError
    from traitwatch_builder.storage.workspace import find_definition, known_definitions

    found = find_definition(trait, places)
    if found is not None:
        if description:
            console.print(
                f"{found[0]} defines {trait} already, and --description changes nothing in it; `traitwatch define "
                f"{trait} --description ... --definitions {out} --force` writes it anew.",
                soft_wrap=True,
            )
        return True
    if not os.environ.get("ANTHROPIC_API_KEY"):
        shipped = ", ".join(known_definitions([SHIPPED_DEFINITIONS]))
        raise PipelineError(
            f"there is no definition of {trait!r} yet, and Claude writes one only with a key: set ANTHROPIC_API_KEY, "
            f"or get one without by `traitwatch define {trait} --print-prompt` and `--from FILE --definitions {out}`, "
            f"or leave out --description to use a shipped one ({shipped})."
        )
    if dry_run:
        tell_dry_run(console, trait, description, claude_model)
        console.print("The rest depends on the definition: run `traitwatch define` first to see it.")
        return False
    ask_claude(console, out, trait, description, claude_model, force=False)
    return True
