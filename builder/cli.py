"""The builder's commands."""

import logging
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from builder.errors import ArtifactError, PipelineError

DATA = Path(__file__).parent / "data"


@click.command()
def model() -> None:
    """Print the path of the embedded model, preparing it on first use.

    The model is SmolLM2-135M-Instruct, out of a PyPI package; no model hub is asked.
    """
    from builder.embedded_model import embedded_model

    handler = RichHandler(console=Console(stderr=True), show_path=False, show_level=False)
    logging.getLogger("builder").addHandler(handler)
    logging.getLogger("builder").setLevel(logging.INFO)
    click.echo(embedded_model())


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("trait")
@click.option(
    "--model", required=True, help="Path or hub name of the model; `traitwatch model` prints the embedded one."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Where to write; files go to OUT/<model's name>/, which `traitwatch serve --traits` takes.",
)
@click.option(
    "--definition",
    type=click.Path(file_okay=False, path_type=Path),
    default=DATA,
    show_default="the shipped ones",
    help="Directory with trait_data_extract/<trait>.json and trait_data_eval/<trait>.json.",
)
@click.option(
    "--elicit",
    type=click.Choice(["system", "many-shot"]),
    default="system",
    help="How the trait is elicited: by a system prompt, or by examples for models that do not obey one.",
)
@click.option(
    "--read-under",
    type=click.Choice(["prompt", "question"]),
    show_default="question for many-shot, prompt for system",
    help="Whether hidden states are read after the prompt that elicited the answer or after the bare question.",
)
@click.option("--judge", type=click.Choice(["likelihood"]), default="likelihood", help="Who scores the answers.")
@click.option("--n-per-question", "samples", type=click.IntRange(1), default=10, help="Answers to each question.")
@click.option("--threshold", type=click.FloatRange(0, 100), default=50.0, help="Trait score of an effective pair.")
@click.option("--coherence", type=click.FloatRange(0, 100), default=50.0, help="Least coherence of both answers.")
@click.option("--assistant-name", show_default="the trait", help="What a positive system prompt calls the assistant.")
@click.option("--max-tokens", type=click.IntRange(2), default=100, help="Where an answer is cut off.")
@click.option(
    "--temperature",
    type=click.FloatRange(0),
    default=0.7,
    help="Of sampling. The embedded model writes word salad at 1.",
)
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=0.9, help="Nucleus of sampling.")
@click.option("--seed", type=int, default=0, help="Seed of the engine.")
def build(
    *,
    trait: str,
    model: str,
    out: Path,
    definition: Path,
    elicit: Any,
    read_under: Any,
    judge: str,
    samples: int,
    threshold: float,
    coherence: float,
    assistant_name: str | None,
    max_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
) -> None:
    """Build the persona vector of TRAIT for a model.

    Answers are generated with vLLM under a positive and a negative condition and scored; the hidden states of the
    effective pairs are averaged and subtracted, for all layers; the vector is calibrated on neutral prompts and
    verified on questions that it has not seen. An interrupted build goes on where it stopped.

    \b
        traitwatch build paternalism --model "$(traitwatch model)" --elicit many-shot --out vectors
        traitwatch serve "$(traitwatch model)" --traits vectors/SmolLM2-135M-Instruct
    """
    from builder.artifacts import check_trait_name
    from builder.definitions import load_definition

    check_trait_name(trait)
    extract = load_definition(_definition_file(definition, "trait_data_extract", trait))
    evaluate = load_definition(_definition_file(definition, "trait_data_eval", trait))
    if not Path(model).is_dir() and (Path(model).is_absolute() or model.startswith(".")):
        raise PipelineError(f"{model}: no such model directory; `traitwatch model` prints the embedded model's.")
    target = out / Path(model).name
    _check_writable(target)

    from filelock import FileLock, Timeout

    from builder.embedded_model import cache_directory
    from builder.engine import Sampling
    from builder.pipeline import Build, BuildOptions
    from builder.worklog import Worklog

    console = Console(stderr=True)
    options = BuildOptions(
        trait=trait,
        elicit=elicit,
        read_under=read_under or ("question" if elicit == "many-shot" else "prompt"),
        samples=samples,
        threshold=threshold,
        coherence=coherence,
        assistant_name=assistant_name,
        sampling=Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed),
    )
    work = cache_directory() / "builds" / trait
    work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work / ".lock", timeout=0):
            card = Build(model, extract, evaluate, neutral_prompts(), options, Worklog(work), console).run(target)
    except Timeout:
        raise PipelineError(f"{trait} is being built by another process already; wait for it, or stop it.") from None
    except KeyboardInterrupt:
        console.print("\nStopped. What was made is kept: the same command goes on from here.")
        raise click.exceptions.Exit(130) from None
    _tell(console, card, target)


def neutral_prompts() -> list[str]:
    """Return the neutral prompts on which vectors are calibrated."""
    from pydantic import BaseModel

    class Prompts(BaseModel):
        prompts: list[str]

    return Prompts.model_validate_json((DATA / "neutral_prompts.json").read_bytes()).prompts


def _definition_file(directory: Path, kind: str, trait: str) -> Path:
    path = directory / kind / f"{trait}.json"
    if not path.is_file():
        known = ", ".join(sorted(f.stem for f in path.parent.glob("*.json"))) or "none"
        raise ArtifactError(f"{path}: no such definition; there are: {known}.")
    return path


def _check_writable(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / ".writable").touch()
        (directory / ".writable").unlink()
    except OSError as error:
        raise PipelineError(f"{directory} cannot be written: {error.strerror}; choose another --out.") from error


def _tell(console: Console, card: Any, target: Path) -> None:
    """Say what was made, where, and how far it can be trusted."""
    from builder.artifacts import DEFAULT_LAYER

    table = Table(title=f"{card.trait} for {card.model}", show_header=False)
    auc = {score.layer: score.auc for score in card.validation}
    served = min(DEFAULT_LAYER, card.num_layers)
    table.add_row("vector", str(target / f"{card.trait}_response_avg_diff.pt"))
    table.add_row("effective pairs", f"{card.counts['effective_pairs']} of {card.counts['pairs']}")
    table.add_row("judge", f"{card.judge['name']}: {card.judge['note']}")
    table.add_row(f"held-out AUC, layer {served}", f"{auc[served]:.3f}")
    table.add_row("best layer", f"{card.best_layer}: {card.best_layer_reason}")
    table.add_row("calibrated on", f"{card.calibration.num_tokens} tokens of {card.calibration.num_prompts} answers")
    table.add_row("note", card.validation_note)
    console.print(table)
