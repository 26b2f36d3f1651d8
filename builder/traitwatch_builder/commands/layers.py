"""`traitwatch layers`: rank the layers at which a trait can be read."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from traitwatch_builder.commands.options import (
    CONTEXT,
    check_model_path,
    definition_option,
    definition_places,
    device_map_option,
    dry_run_option,
    interruptible,
    judge_options,
    load_definitions,
    make_judge_options,
    make_sampling,
    model_option,
    out_of,
    vectors_option,
)


@click.command("layers", context_settings=CONTEXT)
@click.argument("trait")
@model_option
@vectors_option
@definition_option("the directory that --vectors is in")
@click.option(
    "--layer",
    "layers",
    type=click.IntRange(1),
    multiple=True,
    show_default="the 6 inner layers of highest AUC, and 20",
    help="Layer to steer; repeat the option for several. Without the default layers, the card gets no best layer.",
)
@click.option(
    "--coefficient",
    "coefficients",
    type=click.FloatRange(0, min_open=True),
    multiple=True,
    default=(1.0, 2.0),
    help="Multiple of the vector that is added; repeat the option for several.",
)
@click.option(
    "--questions",
    "num_questions",
    type=click.IntRange(1),
    default=20,
    help="Eval questions answered per layer and coefficient.",
)
@click.option(
    "--coherence-floor",
    type=click.FloatRange(0, 100),
    default=50.0,
    help="Least mean coherence of steered answers. If unsteered answers are less coherent: 80 % of their coherence.",
)
@click.option("--no-steering", is_flag=True, help="Rank by held-out AUC alone; nothing is generated or judged.")
@click.option(
    "--temperature", type=click.FloatRange(0), default=0.7, help="Temperature of sampling; 0 takes the likeliest token."
)
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=0.9, help="Nucleus of sampling.")
@click.option("--max-tokens", type=click.IntRange(2), default=48, help="Most tokens of an answer.")
@click.option("--seed", type=int, default=0, help="Seed of sampling.")
@device_map_option
@click.option(
    "--elicit",
    type=click.Choice(["system", "many-shot"]),
    show_default="that of the card",
    help="The conditions by which --judge likelihood scores.",
)
@click.option("--assistant-name", show_default="the trait", help="What a positive system prompt calls the assistant.")
@judge_options
@dry_run_option
@interruptible
def layers_command(
    *,
    console: Console,
    trait: str,
    model: str,
    vectors: Path,
    definition: Path | None,
    coherence_floor: float,
    no_steering: bool,
    dry_run: bool,
    **values: Any,
) -> None:
    """Rank the layers of the vector of TRAIT by held-out AUC and by steering effect; the card gets the best one.

    The AUC is what `traitwatch verify` measured. For the effect, the model answers the eval questions while a
    coefficient times the vector is added at a layer, and a judge scores the answers. The effect is the highest gain of
    the mean trait score over no steering, among the coefficients at which the answers stay coherent. An interrupted run
    goes on where it stopped.

    \b
        traitwatch layers paternalism --model "$(traitwatch model)" --vectors vectors/SmolLM2-135M-Instruct
        traitwatch layers paternalism --model MODEL --vectors DIR --layer 12 --layer 16 --coefficient 1.5
    """
    check_model_path(model)
    options = None if no_steering else _steering_options(model, values)

    from traitwatch.vectors import DEFAULT_LAYER
    from traitwatch_builder.report.summary import ranking_table, steering_table
    from traitwatch_builder.steering.step import SteeringRun, load_verified, rank_step
    from traitwatch_builder.storage.workspace import Workspace

    workspace = Workspace(vectors, trait)
    with workspace.alone():
        verified = load_verified(workspace, model)
        effects = None
        if options is not None:
            extract, evaluate = load_definitions(trait, definition_places(definition, out_of(vectors)))
            run = SteeringRun(workspace, verified, extract, evaluate, options, console)
            if dry_run:
                console.print(run.plan())
                return
            effects = run.measure()
        ranking = rank_step(workspace, verified, effects, coherence_floor, write=not dry_run)
    if ranking is None:
        console.print(f"Nothing was measured: layer {DEFAULT_LAYER} stays the default, and the card is unchanged.")
        return
    console.print(ranking_table(trait, ranking.choice))
    if effects is not None:
        console.print(steering_table(ranking.choice))
    if ranking.left_out:
        console.print(
            f"{workspace.card} is unchanged: a best layer is chosen only if all layers of highest AUC are steered, and "
            f"these were not: {', '.join(map(str, ranking.left_out))}. Leave --layer out, or name these layers too.",
            soft_wrap=True,
        )
        return
    console.print(f"Best layer: [bold]{ranking.best_layer}[/], {ranking.reason}.")
    if not dry_run:
        console.print(f"{workspace.card} has this layer now.")


def _steering_options(model: str, values: dict[str, Any]) -> Any:
    """Take the options of a measurement of steering out of the command's values."""
    sampling, judge = make_sampling(values), make_judge_options(values)

    from traitwatch_builder.steering.step import SteeringOptions

    return SteeringOptions(model=model, sampling=sampling, judge=judge, **values)
