"""`traitwatch import`: a persona vector out of a file that another program wrote."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from traitwatch_builder.commands.options import CONTEXT, check_model_path, interruptible, model_option, out_option


@click.command("import", context_settings=CONTEXT)
@click.argument("file", type=click.Path(path_type=Path))
@model_option
@out_option
@click.option("--trait", help="The trait's name.", show_default="the file's name")
@click.option("--description", default="", help="Meaning of the trait, for the card.", show_default=False)
@click.option(
    "--key", help="Keys that lead to the vector in the file, joined with dots.", show_default="the only vector"
)
@click.option(
    "--rows",
    type=click.Choice(["layers", "layers+1"]),
    show_default="what the file says",
    help="How the file counts: its index 0 is the output of the first decoder layer (layers), or the embeddings, as "
    "in output_hidden_states (layers+1).",
)
@click.option("--layer", type=click.IntRange(0), help="The file's index of a vector of one layer.")
@click.option(
    "--num-layers", type=click.IntRange(1), help="Decoder layers of the model.", show_default="those of its config.json"
)
@click.option("--force", is_flag=True, help="Remove a vector of that name with all that belongs to it.")
@click.option("--dry-run", is_flag=True, help="Print what the file holds, and write nothing.")
@interruptible
def import_command(
    *,
    console: Console,
    file: Path,
    model: str,
    out: Path,
    trait: str | None,
    dry_run: bool,
    **values: Any,
) -> None:
    """Make a persona vector of the published FILE: torch.save, safetensors, a GGUF control vector, .npy or .npz.

    The file may hold one tensor [layers, hidden_size], or one [hidden_size] for each layer, under any keys. Layers that
    it lacks become zero rows, which cannot be served. The card says where the vector came from. The vector has no
    baseline: it serves, without z and spikes, until `traitwatch calibrate` measures one.

    \b
        traitwatch import evil.pt --model Qwen/Qwen2.5-7B-Instruct --out vectors
        traitwatch import personas.pt --key evil.vectors --rows layers --trait evil --model MODEL --out vectors
        traitwatch import happy.gguf --model mistralai/Mistral-7B-Instruct-v0.1 --num-layers 32 --out vectors
    """
    check_model_path(model)

    from traitwatch.errors import ArtifactError
    from traitwatch.vectors import RESPONSE_AVG
    from traitwatch_builder.importing.step import ImportOptions, import_step
    from traitwatch_builder.storage.workspace import Workspace, model_directory

    try:
        workspace = Workspace(model_directory(out, model), trait or file.stem.removesuffix(f"_{RESPONSE_AVG}"))
    except ArtifactError as error:
        raise ArtifactError(f"{error} Give one as --trait.") from None
    card = import_step(file, workspace, ImportOptions(model, **values), console, dry_run=dry_run)
    if dry_run:
        console.print(f"Nothing was written. The vector would be {workspace.vector(RESPONSE_AVG)}.", highlight=False)
        return
    console.print(
        f"The vector {workspace.vector(RESPONSE_AVG)} and its card are written. It has no baseline: "
        f"`traitwatch calibrate {card.trait} --model {model} --vectors {workspace.directory}` measures one.",
        markup=False,
        highlight=False,
    )
