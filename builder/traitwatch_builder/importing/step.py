"""The step behind `traitwatch import`: a published file becomes a vector and a card that says where it came from."""

import datetime
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from traitwatch.card import Source
from traitwatch.errors import ArtifactError
from traitwatch.tensor_values import shortened
from traitwatch.vectors import (
    PROMPT_AVG,
    PROMPT_LAST,
    RESPONSE_AVG,
    Card,
    listed_layers,
    save_card,
    save_tensor,
    vector_sha256,
)
from traitwatch_builder.importing.candidates import Candidate, choose
from traitwatch_builder.importing.formats import Published, read_published
from traitwatch_builder.importing.rows import Placed, Rows, place
from traitwatch_builder.models.pretrained import model_size
from traitwatch_builder.progress import warn
from traitwatch_builder.steps import versions
from traitwatch_builder.storage.workspace import Workspace, card_model_name

_MOST_METADATA = 20


@dataclass(frozen=True)
class ImportOptions:
    """What the user says of a published file.

    Attributes:
        model: directory or hub name of the model of the vector.
        description: meaning of the trait, for the card.
        key: the keys that lead to the vector, joined with dots; None for the only one.
        rows: how the file counts layers; None if the file says so.
        layer: the file's index of a single row.
        num_layers: decoder layers of the model; None to read them from its configuration.
        force: whether to replace a vector that is there.
    """

    model: str
    description: str = ""
    key: str | None = None
    rows: Rows | None = None
    layer: int | None = None
    num_layers: int | None = None
    force: bool = False


def import_step(
    file: Path, workspace: Workspace, options: ImportOptions, console: Console, *, dry_run: bool = False
) -> Card:
    """Write the vector of a published file and its card; return the card.

    Args:
        file: the published file.
        workspace: where the vector goes.
        options: what the user says of the file.
        console: where the step prints what it found.
        dry_run: print, and write nothing.

    Raises:
        ArtifactError: the file has no such vector, or does not fit the model; or a vector is there already.
        PipelineError: the model cannot be read, or the directory cannot be written.
    """
    _check_free(workspace, file, options.force)
    published = read_published(file)
    num_layers, hidden_size = _size(options, console)
    candidate = choose(published, options.key, hidden_size)
    where = f"{file} ({candidate.key})" if candidate.key else str(file)
    if hidden_size not in (None, candidate.hidden_size):
        raise ArtifactError(
            f"{where} has rows of {candidate.hidden_size} values, but {options.model} has a hidden size of "
            f"{hidden_size}; give the model of the vector."
        )
    placed = place(candidate, where, rows=options.rows, layer=options.layer, num_layers=num_layers)
    card = _card(workspace, published, candidate, placed, options)
    _tell(console, where, published, placed)
    if not dry_run:
        with workspace.alone():
            _check_free(workspace, file, options.force)
            for stale in _made_before(workspace):
                stale.unlink()
            save_tensor(placed.vector, workspace.vector(RESPONSE_AVG))
            save_card(card, workspace.card)
    return card


def _size(options: ImportOptions, console: Console) -> tuple[int | None, int | None]:
    """Return the decoder layers and the hidden size of the model, as far as they are known."""
    size = model_size(options.model)
    if size is None:
        warn(
            console,
            f"the configuration of {options.model} cannot be read here, so nothing checks that the vector fits the "
            "model.",
        )
        return options.num_layers, None
    if options.num_layers not in (None, size[0]):
        raise ArtifactError(
            f"--num-layers {options.num_layers}: {options.model} has {size[0]} layers; leave the option out."
        )
    return size


def _made_before(workspace: Workspace) -> list[Path]:
    """Return the files there that belong to a vector: with another vector, each would be wrong."""
    report = workspace.directory / f"{workspace.trait}.html"
    kinds = [workspace.vector(kind) for kind in (RESPONSE_AVG, PROMPT_AVG, PROMPT_LAST)]
    short = workspace.directory / f"{workspace.trait}.pt"
    files = [*kinds, short, workspace.card, report, workspace.evidence, workspace.report_evidence]
    return [path for path in files if path.exists()]


def _check_free(workspace: Workspace, file: Path, force: bool) -> None:
    there = _made_before(workspace)
    if any(path.samefile(file) for path in there if file.exists()):
        raise ArtifactError(f"{file} stands where its vector would go; give another --out or --trait.")
    if there and not force:
        raise ArtifactError(
            f"{', '.join(map(str, there))}: there already. Give --force to remove them, or another --trait or --out."
        )


def _card(
    workspace: Workspace, published: Published, candidate: Candidate, placed: Placed, options: ImportOptions
) -> Card:
    today = datetime.datetime.now(tz=datetime.UTC).date()
    metadata = {name: shortened(str(value)) for name, value in reversed(candidate.beside) if _is_plain(value)}
    return Card(
        trait=workspace.trait,
        description=options.description,
        model=card_model_name(options.model),
        hidden_size=candidate.hidden_size,
        num_layers=len(placed.vector) - 1,
        sha256=vector_sha256(placed.vector),
        source=Source(
            file=_printable(published.path.name),
            sha256=published.sha256,
            format=published.format,
            key=candidate.key,
            rows=placed.rows,
            convention=placed.convention,
            layers=list(placed.layers),
            metadata={
                _printable(shortened(name)): _printable(metadata[name]) for name in list(metadata)[-_MOST_METADATA:]
            },
            date=today,
        ),
        date=today,
        versions=versions(),
    )


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float)


def _printable(text: str) -> str:
    """Return a text that JSON can hold: a name on disk or in a pickle may have halves of characters."""
    return text.encode("utf-8", "replace").decode()


def _tell(console: Console, where: str, published: Published, placed: Placed) -> None:
    last = len(placed.vector) - 1
    console.print(
        f"{where}: {published.format}, layer indices {listed_layers(placed.layers)} of a model of {last} layers, "
        f"hidden size {placed.vector.shape[1]}.",
        markup=False,
        highlight=False,
    )
    console.print(f"Rows: {placed.convention}.", markup=False, highlight=False)
    if placed.rows == "layers" and last in placed.layers:
        console.print(
            f"[yellow]Note:[/] the file has layer {last} before the model's final norm, and Traitwatch reads it after "
            "that norm: serve another layer.",
            highlight=False,
        )
    if published.format.startswith("GGUF"):
        console.print(
            "[yellow]Note:[/] this is how repeng counts, and how llama.cpp applies the file. llama.cpp's own "
            "cvector-generator numbers one too high: for its files give --rows layers+1.",
            highlight=False,
        )
