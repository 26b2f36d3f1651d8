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
    help="Your meaning of the trait. With this option, Claude writes a definition into OUT (needs ANTHROPIC_API_KEY), "
    "unless OUT has one. Without this option, the definition in OUT or a shipped one is used.",
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
@click.option("--dry-run", is_flag=True, help="Print the work and its cost, and make nothing.")
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

    The model answers questions under a positive and a negative condition, and a judge scores the answers. The vector is
    the difference between the mean hidden states of both conditions, over the effective pairs, at every layer. The
    vector is verified on held-out questions and calibrated on neutral prompts. An interrupted build goes on where it
    stopped: nothing is generated, judged or read twice.

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
            table = Table("step", "work and cost", title=f"{trait} for {card_model_name(model)}, dry run")
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
                f"{found[0]} defines {trait} already, and --description does not change the definition; `traitwatch "
                f"define {trait} --description ... --definitions {out} --force` writes a new one.",
                soft_wrap=True,
            )
        return True
    if not os.environ.get("ANTHROPIC_API_KEY"):
        shipped = ", ".join(known_definitions([SHIPPED_DEFINITIONS]))
        raise PipelineError(
            f"there is no definition of {trait!r} yet, and Claude writes one only with a key: set ANTHROPIC_API_KEY; "
            f"or get one without a key by `traitwatch define {trait} --print-prompt` and `--from FILE --definitions "
            f"{out}`; or leave out --description to use a shipped definition ({shipped})."
        )
    if dry_run:
        tell_dry_run(console, trait, description, claude_model)
        console.print("The rest depends on the definition: run `traitwatch define` first to see it.")
        return False
    ask_claude(console, out, trait, description, claude_model, force=False)
    return True
