"""Cosines between persona vectors at a layer: which traits point the same way, as numbers and as a heat map."""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from traitwatch.errors import ArtifactError
from traitwatch.files import write_atomically
from traitwatch.vectors import DEFAULT_LAYER, Float64Array, PersonaVector, load_vectors
from traitwatch_builder.errors import PipelineError

SUFFIXES = (".png", ".svg", ".html", ".csv")
# Shades of the cells of a page on each side of zero.
SHADES = 8


@dataclass(frozen=True, eq=False)
class Comparison:
    """Cosines between vectors.

    Attributes:
        names: names of the vectors: the trait, with its directory where two vectors have the same trait.
        layer: layer index.
        cosines: `[n, n]`, float64.
    """

    names: list[str]
    layer: int
    cosines: Float64Array


def cosine_matrix(vectors: Sequence[PersonaVector], layer: int) -> Float64Array:
    """Return `v_i . v_j / (||v_i|| ||v_j||)` at a layer: `[n, n]`, float64, its diagonal 1.

    Raises:
        ArtifactError: fewer than two vectors, of different models or shapes, a layer out of range, or a zero vector.
    """
    _check_comparable(vectors, layer)
    rows = np.stack([vector.vector[layer] for vector in vectors]).astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)
    for vector, norm in zip(vectors, norms, strict=True):
        if norm == 0.0:
            raise ArtifactError(f"{vector.path}: the vector is zero at layer {layer}; choose another --layer.")
    cosines: Float64Array = np.clip((rows @ rows.T) / np.outer(norms, norms), -1.0, 1.0)
    np.fill_diagonal(cosines, 1.0)
    return cosines


def compare_vectors(
    directories: Sequence[Path], traits: Sequence[str] | None = None, layer: int | None = None
) -> Comparison:
    """Compare the vectors of directories, those of the Persona Vectors authors' code included.

    Args:
        directories: directories of vectors; two of them may hold the same trait.
        traits: the traits to compare, in this order; all by default.
        layer: layer index; by default the one that servers read, or the last index of smaller models.

    Raises:
        ArtifactError: a directory, trait or layer is not there, or the vectors cannot be compared.
    """
    vectors = [vector for directory in dict.fromkeys(directories) for vector in load_vectors([directory])]
    if traits is not None:
        known = dict.fromkeys(vector.trait for vector in vectors)
        if unknown := [trait for trait in traits if trait not in known]:
            raise ArtifactError(f"no vector of {', '.join(unknown)}; there are: {', '.join(known)}.")
        vectors = [vector for trait in dict.fromkeys(traits) for vector in vectors if vector.trait == trait]
    if layer is None:
        layer = min([DEFAULT_LAYER, *(vector.num_layers for vector in vectors)])
    counts = Counter(vector.trait for vector in vectors)
    names = [v.trait if counts[v.trait] == 1 else f"{v.path.resolve().parent.name}/{v.trait}" for v in vectors]
    if len(set(names)) < len(names):
        names = [str(vector.path) for vector in vectors]
    return Comparison(names, layer, cosine_matrix(vectors, layer))


def check_format(path: Path) -> None:
    """Raise `PipelineError` unless `write_comparison` knows the suffix of `path`."""
    if path.suffix.lower() not in SUFFIXES:
        raise PipelineError(f"{path}: the name of the file must end in one of {', '.join(SUFFIXES)}.")


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write a comparison: numbers (`.csv`), a heat map (`.png`, `.svg`), or a page that loads nothing (`.html`)."""
    check_format(path)
    suffix = path.suffix.lower()
    if suffix == ".csv":
        import pandas as pd

        table = pd.DataFrame(comparison.cosines, index=comparison.names, columns=comparison.names)
        write_atomically(path, table.to_csv(index_label="trait", lineterminator="\n").encode())
    elif suffix == ".html":
        from traitwatch_builder.report.page import render_page

        write_atomically(path, render_page("compare.html.j2", {"comparison": comparison, "steps": SHADES}).encode())
    else:
        write_atomically(path, _heat_map(comparison, suffix[1:]))


def _check_comparable(vectors: Sequence[PersonaVector], layer: int) -> None:
    if len(vectors) < 2:
        found = ", ".join(str(vector.path) for vector in vectors) or "none"
        raise ArtifactError(f"a comparison needs two vectors or more; found: {found}.")
    kinds: dict[str, list[str]] = {}
    for vector in vectors:
        kind = f"{vector.num_layers} layers of {vector.hidden_size}"
        kinds.setdefault(kind, []).append(str(vector.path))
    if len(kinds) == 1:
        models: dict[str, list[str]] = {}
        for vector in vectors:
            if vector.card is not None:
                models.setdefault(vector.card.model, []).append(str(vector.path))
        kinds = models if len(models) > 1 else kinds
    if len(kinds) > 1:
        found = "; ".join(f"{kind}: {', '.join(paths)}" for kind, paths in kinds.items())
        raise ArtifactError(f"vectors of different models cannot be compared. {found}.")
    if not 0 <= layer <= vectors[0].num_layers:
        raise ArtifactError(f"layer {layer} is out of range; the vectors have layers 0 to {vectors[0].num_layers}.")


def _heat_map(comparison: Comparison, kind: str) -> bytes:
    """Draw the matrix as a `png` or `svg` file, in fixed colours on white."""
    import matplotlib as mpl
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    from traitwatch_builder.report.plots import INK, NEG, POS, STYLE

    count = len(comparison.names)
    side = max(3.0, 0.85 * count)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(side + 2.6, side + 1.4), layout="constrained")
        axes = figure.add_subplot()
        colours = LinearSegmentedColormap.from_list("cosine", [NEG, "#ffffff", POS])
        # A mesh is drawn as paths in an SVG; an image would be a raster.
        mesh = axes.pcolormesh(comparison.cosines, cmap=colours, vmin=-1, vmax=1, edgecolors="white", linewidth=2)
        for row, column in np.ndindex(count, count):
            value = float(comparison.cosines[row, column])
            colour = "white" if abs(value) > 0.6 else INK
            text = f"{value:.2f}".replace("-", "\u2212")
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=colour)
        ticks = np.arange(count) + 0.5
        axes.set_xticks(ticks, comparison.names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(ticks, comparison.names)
        axes.set(aspect="equal", ylim=(count, 0), title=f"Cosine between persona vectors, layer {comparison.layer}")
        axes.grid(visible=False)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        figure.colorbar(mesh, ax=axes, shrink=0.7, ticks=[-1, -0.5, 0, 0.5, 1])
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()
