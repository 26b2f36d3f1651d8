"""`traitwatch layers`: which layer to read a trait at."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

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

if TYPE_CHECKING:
    from traitwatch.card import LayerChoice, SteeringResult
    from traitwatch_builder.judging.judge import Judge
    from traitwatch_builder.steering.answers import SteeredAnswers
    from traitwatch_builder.steering.model import SteeredModel
    from traitwatch_builder.storage.worklog import Worklog

# What models are served in, and on a CPU twice as fast as float32.
_DTYPE = "bfloat16"
_TABLE_LAYERS = 12


@click.command(context_settings=CONTEXT)
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
    help="Layer to steer; may be given again. The card gets a best layer only where the default ones are among them.",
)
@click.option(
    "--coefficient",
    "coefficients",
    type=click.FloatRange(0, min_open=True),
    multiple=True,
    default=(1.0, 2.0),
    help="How much of the vector is added, as it is; may be given again.",
)
@click.option(
    "--questions",
    "count",
    type=click.IntRange(1),
    default=20,
    help="Eval questions answered per layer and coefficient.",
)
@click.option(
    "--coherence-floor",
    type=click.FloatRange(0, 100),
    default=50.0,
    help="Least mean coherence of steered answers. Where the unsteered ones are below it themselves: 80 % of theirs.",
)
@click.option("--no-steering", is_flag=True, help="Rank by held-out AUC alone; nothing is generated or judged.")
@click.option("--temperature", type=click.FloatRange(0), default=0.7, help="Of sampling; 0 takes the likeliest token.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=0.9, help="Nucleus of sampling.")
@click.option("--max-tokens", type=click.IntRange(2), default=48, help="Where an answer is cut off.")
@click.option("--seed", type=int, default=0, help="Seed of sampling.")
@device_map_option
@click.option(
    "--elicit",
    type=click.Choice(["system", "many-shot"]),
    show_default="what the card says",
    help="The conditions by which --judge likelihood scores.",
)
@click.option("--assistant-name", show_default="the trait", help="What a positive system prompt calls the assistant.")
@judge_options
@dry_run_option
@interruptible
def layers(
    *,
    console: Console,
    trait: str,
    model: str,
    vectors: Path,
    definition: Path | None,
    layers: tuple[int, ...],
    coefficients: tuple[float, ...],
    count: int,
    coherence_floor: float,
    no_steering: bool,
    device_map: str | None,
    elicit: str | None,
    assistant_name: str | None,
    dry_run: bool,
    **values: Any,
) -> None:
    """Rank the layers of the vector of TRAIT by held-out AUC and by steering effect; the card gets the best one.

    The AUC is what `traitwatch verify` measured. For the effect, the eval questions are answered with a coefficient
    times the vector added at a layer, and judged: it is the highest gain of the mean trait score over no steering
    among the coefficients at which the answers stay coherent. An interrupted run goes on where it stopped.

    \b
        traitwatch layers paternalism --model "$(traitwatch model)" --vectors vectors/SmolLM2-135M-Instruct
        traitwatch layers paternalism --model MODEL --vectors DIR --layer 12 --layer 16 --coefficient 1.5
    """
    check_model_path(model)
    sampling, judge_of = make_sampling(values), None if no_steering else make_judge_options(values)

    from traitwatch.vectors import DEFAULT_LAYER, RESPONSE_AVG, load_vector, save_card
    from traitwatch_builder.definitions.elicitation import Elicitation
    from traitwatch_builder.errors import PipelineError
    from traitwatch_builder.judging.judging import make_judge
    from traitwatch_builder.models.pretrained import check_length, load_tokenizer
    from traitwatch_builder.steering.answers import SteeredAnswers, settings
    from traitwatch_builder.steering.model import SteeredModel, check_layer
    from traitwatch_builder.steering.ranking import candidates, choose, reason
    from traitwatch_builder.storage.worklog import Worklog, model_fingerprint
    from traitwatch_builder.storage.workspace import Workspace

    workspace = Workspace(vectors, trait)
    with workspace.alone():
        loaded = load_vector(workspace.vector(RESPONSE_AVG), trait)
        card = loaded.card
        if card is None or card.verification is None:
            raise PipelineError(
                f"{workspace.card} has no verification, so there is no AUC to rank by; run `traitwatch verify {trait} "
                f"--model {model} --vectors {vectors}` first."
            )
        results: list[SteeringResult] = []
        judge_name = ""
        if judge_of is not None:
            extract, evaluate = load_definitions(trait, definition_places(definition, out_of(vectors)))
            for layer in layers:
                check_layer(layer, card.num_layers)
            way: Any = elicit or card.elicit or "system"
            elicitation = Elicitation(extract, way, trait, assistant_name)
            judge = make_judge(judge_of, extract.eval_prompt, elicitation, model, console, device_map)
            judge_name = ": ".join(filter(None, (judge.card.name, judge.card.model)))
            tokenizer = load_tokenizer(model)
            with Worklog(workspace.log("steered")) as made, Worklog(workspace.log("scores")) as scores:
                answers = SteeredAnswers(
                    tokenizer,
                    loaded.vector,
                    {**model_fingerprint(model), "dtype": _DTYPE},
                    sampling,
                    evaluate.questions[:count],
                    settings(layers or candidates(card.verification, card.num_layers), coefficients),
                    made,
                )
                check_length(model, answers.longest_prompt, sampling.max_tokens)
                if dry_run:
                    console.print(_plan(answers, judge, scores, sampling.max_tokens))
                    return
                results = _measure(
                    answers,
                    lambda: SteeredModel.load(model, tokenizer, loaded.vector, _DTYPE, device_map),
                    judge,
                    scores,
                    console,
                )
        choice = choose(card.verification, results, card.num_layers, judge_name, coherence_floor)
        if choice is None:
            console.print(f"Nothing was measured: layer {DEFAULT_LAYER} stays the default, and the card is as it was.")
            return
        best, why = choice.ranks[0].layer, reason(choice, better_than_null=card.verification.better_than_null)
        left_out = set(candidates(card.verification, card.num_layers)) - set(layers) if layers and results else set()
        if not dry_run and not left_out:
            chosen = {"layer_choice": choice, "best_layer": best, "best_layer_reason": why}
            save_card(card.model_copy(update=chosen), workspace.card)
    console.print(_ranking(trait, choice))
    if results:
        console.print(_steering(choice))
    if left_out:
        console.print(
            f"{workspace.card} is as it was: a best layer is chosen where all with the highest AUC are steered, and "
            f"these were not: {', '.join(map(str, sorted(left_out)))}. Leave --layer out, or name them too.",
            soft_wrap=True,
        )
        return
    console.print(f"Best layer: [bold]{best}[/], {why}.")
    if not dry_run:
        console.print(f"{workspace.card} says so now.")


def _measure(
    answers: "SteeredAnswers", load: "Callable[[], SteeredModel]", judge: "Judge", scores: "Worklog", console: Console
) -> "list[SteeringResult]":
    from traitwatch_builder.judging.judging import telling_usage
    from traitwatch_builder.steering.answers import judge_steering

    with telling_usage(judge, console):
        return judge_steering(judge, answers.make(load, console), scores, console)


def _plan(answers: "SteeredAnswers", judge: "Judge", scores: "Worklog", max_tokens: int) -> str:
    """Return what a run would make and spend."""
    from traitwatch_builder.clients.usage import CHARACTERS_PER_TOKEN
    from traitwatch_builder.judging.judge import Question
    from traitwatch_builder.judging.judging import ASPECTS, estimated, pending

    kept = answers.kept()
    made = [question for answer in kept if answer for question in answer.questions]
    asked = list(pending(judge, made, scores).values())
    missing = kept.count(None)
    # What an answer to come costs is that of the longest that can come.
    unknown = "x" * (CHARACTERS_PER_TOKEN * max_tokens)
    asked += [Question(aspect, "", unknown) for _ in range(missing) for aspect in ASPECTS]
    return f"{missing} of {len(kept)} answers to make; {len(asked)} scores to give by {judge.card.name}; " + (
        f"{estimated(judge, asked)}." if judge.estimate(asked).calls else "nothing to pay."
    )


def _ranking(trait: str, choice: "LayerChoice") -> Table:
    """Return the best layers, those that were steered, and the one that servers read by default."""
    from traitwatch.vectors import DEFAULT_LAYER

    table = Table(title=f"{trait}, layers")
    for column in ("rank", "layer", "AUC", "steering effect", "at coefficient"):
        table.add_column(column, justify="right")
    steered = {result.layer for result in choice.steering}
    for row in choice.ranks:
        if row.rank > _TABLE_LAYERS and row.layer not in steered and row.layer != DEFAULT_LAYER:
            continue
        cells = (
            _number(row.auc, ".3f"),
            _number(row.steering_effect, "+.1f"),
            _number(row.coefficient, "g"),
        )
        table.add_row(str(row.rank), str(row.layer), *cells, style="bold" if row.rank == 1 else None)
    return table


def _steering(choice: "LayerChoice") -> Table:
    """Return what every coefficient does; a setting below the floor is dimmed."""
    floor = choice.coherence_floor or 0.0
    table = Table(
        title=f"steered answers, judge: {choice.judge}",
        caption=f"dimmed: mean coherence below the floor of {floor:.1f}",
    )
    for column in ("layer", "coefficient", "trait score", "coherence", "answers"):
        table.add_column(column, justify="right")
    for result in choice.steering:
        unsteered = result.coefficient == 0
        table.add_row(
            "-" if unsteered else str(result.layer),
            f"{result.coefficient:g}",
            f"{result.trait_score:.1f}",
            f"{result.coherence:.1f}",
            str(result.num_answers),
            style="dim" if result.coherence < floor and not unsteered else None,
        )
    return table


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
