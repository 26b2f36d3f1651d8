"""The files that builder and server share: persona vectors (`.pt`) and their cards (`.json`).

A directory of vectors holds for each trait `<trait>_response_avg_diff.pt` (the vector that servers use), its two
siblings `<trait>_prompt_avg_diff.pt` and `<trait>_prompt_last_diff.pt`, and the card `<trait>.json`. The names and the
plain tensors inside are those of the Persona Vectors authors' code, so that either code reads the other's files. A
vector without a card is usable, but uncalibrated: its projections have no z.

`unit_rows` and `PersonaVector.direction` make the unit vectors of a projection, `h . v / ||v||` (Persona Vectors, arXiv
2507.21509).
"""

import hashlib
import io
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from traitwatch.card import Calibration, Card, LayerCalibration
from traitwatch.errors import ArtifactError
from traitwatch.files import read_json, write_atomically
from traitwatch.tensor_files import import_hint, kind_of, read_whole, unpickled
from traitwatch.tensor_values import as_float32, describe, holds_tensors, shape_of

__all__ = [
    "DEFAULT_LAYER",
    "PROMPT_AVG",
    "PROMPT_LAST",
    "RESPONSE_AVG",
    "SHIPPED",
    "Calibration",
    "Card",
    "Float32Array",
    "Float64Array",
    "LayerCalibration",
    "PersonaVector",
    "bad_layers",
    "check_trait_name",
    "listed_layers",
    "load_card",
    "load_tensor",
    "load_vector",
    "load_vectors",
    "missing_embeddings",
    "save_card",
    "save_tensor",
    "unit_rows",
    "vector_sha256",
]

# The vectors that come with the package: one directory for each model.
SHIPPED = Path(__file__).parent / "shipped"
# The layer index at which servers read by default.
DEFAULT_LAYER = 20
RESPONSE_AVG = "response_avg_diff"
PROMPT_AVG = "prompt_avg_diff"
PROMPT_LAST = "prompt_last_diff"

_TRAIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


def check_trait_name(name: str) -> str:
    """Return `name` if it can serve as a file name and a metric label; raise `ArtifactError` otherwise."""
    if not _TRAIT_NAME.fullmatch(name):
        raise ArtifactError(
            f"{name!r} is not a trait name: use letters, digits, '-', '_' and '.', 64 at most, "
            "starting with a letter or digit."
        )
    return name


@dataclass(frozen=True, eq=False)
class PersonaVector:
    """A loaded persona vector.

    Attributes:
        trait: the trait's name.
        vector: `[num_layers + 1, hidden_size]`, float32; row L belongs to layer index L.
        card: its card; None where the directory has none, and the vector is uncalibrated.
        path: the `.pt` file that the vector came from.
    """

    trait: str
    vector: Float32Array
    card: Card | None
    path: Path

    @property
    def num_layers(self) -> int:
        """Decoder layers of the model on which the vector was built."""
        return int(self.vector.shape[0]) - 1

    @property
    def hidden_size(self) -> int:
        """Hidden size of the model on which the vector was built."""
        return int(self.vector.shape[1])

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the vector's values, as in the card."""
        return vector_sha256(self.vector)

    def direction(self, layer: int) -> Float32Array:
        """Return `v / ||v||` at `layer`: `[hidden_size]`, float32.

        A projection on it is a scalar in the units of the hidden state (Persona Vectors, arXiv 2507.21509).

        Raises:
            ArtifactError: the layer is out of range, or the vector is zero there.
        """
        if not 0 <= layer <= self.num_layers:
            raise ArtifactError(
                f"{self.path}: layer {layer} is out of range; the vector has layers 0 to {self.num_layers}."
            )
        row = self.vector[layer]
        norm = float(np.linalg.norm(row.astype(np.float64)))
        if norm == 0.0:
            layers = listed_layers(np.flatnonzero(self.vector.any(axis=1)).tolist())
            raise ArtifactError(
                f"{self.path}: the vector is zero at layer {layer}; it has layers {layers}, choose one of these."
            )
        unit: Float32Array = (row.astype(np.float64) / norm).astype(np.float32)
        return unit

    def calibration(self, layer: int) -> LayerCalibration | None:
        """Return the baseline at `layer`, or None where the vector is uncalibrated or has no such layer."""
        if self.card is None or self.card.calibration is None or not 0 <= layer <= self.num_layers:
            return None
        return self.card.calibration.layers[layer]


def vector_sha256(vector: Float32Array) -> str:
    """Return the SHA-256 of the vector's values (little-endian float32, C order), whatever file holds them."""
    return hashlib.sha256(np.ascontiguousarray(vector, dtype="<f4").tobytes()).hexdigest()


def load_card(path: Path) -> Card:
    """Read a card; raise `ArtifactError` where it is missing or malformed."""
    return read_json(path, Card)


def save_card(card: Card, path: Path) -> None:
    """Write a card as indented JSON."""
    write_atomically(path, card.model_dump_json(indent=1).encode() + b"\n")


def save_tensor(vector: Float32Array, path: Path) -> None:
    """Write `vector` as a plain float32 tensor, which `torch.load(..., weights_only=True)` reads."""
    import torch

    buffer = io.BytesIO()
    torch.save(torch.from_numpy(np.array(vector, dtype=np.float32)), buffer)
    write_atomically(path, buffer.getvalue())


def load_tensor(path: Path) -> Float32Array:
    """Read a persona vector's `.pt`.

    Returns:
        `[num_layers + 1, hidden_size]`, float32.

    Raises:
        ArtifactError: the file is missing, is no plain two-dimensional tensor, or holds NaN or infinity.
    """
    import torch

    data = read_whole(path)
    kind = kind_of(data)
    if kind.name != "torch":
        remedy = kind.remedy if kind.name == "other" else f"{import_hint(path)} makes a persona vector of it"
        raise ArtifactError(f"{path} is not a plain tensor of torch.save, but {kind.what}; {remedy}.")
    value = unpickled(path, data)
    if not isinstance(value, torch.Tensor):
        found = f"{path} holds {_article(type(value).__name__)}, not a plain tensor: {describe(value)}"
        if not holds_tensors(value):
            raise ArtifactError(f"{found}; give a file of vectors.")
        raise ArtifactError(f"{found}; {import_hint(path)} makes a persona vector of it.")
    shape = shape_of(value)
    if len(shape) != 2 or shape[0] < 2 or shape[1] < 1:
        raise ArtifactError(
            f"{path} holds a {value.dtype} tensor of shape {list(shape)}; a persona vector is floating point, "
            f"[num_layers + 1, hidden_size]. {import_hint(path)} makes one of the vectors of some layers."
        )
    vector = as_float32(value, str(path))
    if bad := bad_layers(vector):
        raise ArtifactError(f"{path} has NaN or infinity at layers {bad}; build the vector again.")
    return vector


def missing_embeddings(vector: PersonaVector, num_layers: int, hidden_size: int) -> str:
    """Return what to do about a bare vector that has one row a layer, without row 0; empty for any other vector."""
    if vector.card is not None or vector.vector.shape != (num_layers, hidden_size):
        return ""
    command = f"traitwatch import {shlex.quote(str(vector.path))} --rows layers --model MODEL --out DIR"
    return f"it seems to lack row 0 (the embeddings): `{command}` adds it."


def _article(noun: str) -> str:
    return f"an {noun}" if noun[:1] in "aeiou" else f"a {noun}"


def load_vector(path: Path, trait: str | None = None) -> PersonaVector:
    """Load one `.pt` with the card beside it (`<trait>.json`), if there is one.

    Raises:
        ArtifactError: the tensor or the card is unusable, or the card belongs to another vector.
    """
    trait = check_trait_name(trait or _trait_of(path))
    vector = load_tensor(path)
    card_path = path.with_name(f"{trait}.json")
    card = load_card(card_path) if card_path.is_file() else None
    if card is not None:
        _check_card(card, card_path, vector, path)
    return PersonaVector(trait=trait, vector=vector, card=card, path=path)


def load_vectors(directories: Iterable[Path]) -> list[PersonaVector]:
    """Load every servable vector of the directories, in the order of their names.

    `<trait>_response_avg_diff.pt` and `<trait>.pt` are servable; `_prompt_avg_diff` and `_prompt_last_diff` are
    siblings of the first and are left out.

    Raises:
        ArtifactError: a directory is missing or holds no vector, two files claim one trait, or a file is unusable.
    """
    found: dict[str, Path] = {}
    for directory in directories:
        files = _servable(directory)
        if not files:
            raise ArtifactError(f"{directory} holds no persona vector (<trait>_{RESPONSE_AVG}.pt or <trait>.pt).")
        for file in files:
            trait = _trait_of(file)
            if trait in found:
                raise ArtifactError(f"two vectors are named {trait!r}: {found[trait]} and {file}; remove one.")
            found[trait] = file
    return [load_vector(file, trait) for trait, file in sorted(found.items())]


def _servable(directory: Path) -> list[Path]:
    """Return the files of a directory that a server would load. Hidden files are none: `._evil.pt` is macOS's own."""
    try:
        files = sorted(Path(directory).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(
            f"{directory}: no such directory; give one that holds persona vectors (.pt files)."
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ArtifactError(f"{directory} cannot be read ({reason}); check its permissions.") from None
    vectors = [file for file in files if file.name.endswith(".pt") and not file.name.startswith(".")]
    return [file for file in vectors if not file.stem.endswith((PROMPT_AVG, PROMPT_LAST))]


def listed_layers(layers: Sequence[int]) -> str:
    """Return layer indices as words, runs of them as `1 to 30`; `none` for none."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in runs) or "none"


def _trait_of(path: Path) -> str:
    return path.stem.removesuffix(f"_{RESPONSE_AVG}")


def _check_card(card: Card, card_path: Path, vector: Float32Array, path: Path) -> None:
    expected = (card.num_layers + 1, card.hidden_size)
    if vector.shape != expected:
        raise ArtifactError(f"{path} has shape {list(vector.shape)}, but its card {card_path} says {list(expected)}.")
    if card.sha256 != vector_sha256(vector):
        raise ArtifactError(
            f"{card_path} describes another vector than {path} (sha256 differs); "
            "bring the two from the same build, or remove the card to serve uncalibrated."
        )
    if card.calibration is not None and len(card.calibration.layers) != expected[0]:
        raise ArtifactError(
            f"{card_path} has {len(card.calibration.layers)} calibration layers for {expected[0]} vector rows."
        )


def unit_rows(vector: Float32Array) -> Float32Array:
    """Return `v / ||v||` per layer, float32; a zero row stays zero.

    Args:
        vector: `[..., hidden_size]`, float32, e.g. `[num_layers + 1, hidden_size]` or a stack of such vectors.
    """
    norms = np.linalg.norm(vector.astype(np.float64), axis=-1, keepdims=True)
    unit: Float32Array = (vector / np.where(norms == 0.0, 1.0, norms)).astype(np.float32)
    return unit


def bad_layers(values: npt.NDArray[np.floating], axis: int = -2) -> list[int]:
    """Return the layers at which `values`, whose layer index runs along `axis`, hold NaN or infinity."""
    others = tuple(i for i in range(values.ndim) if i != axis % values.ndim)
    bad: Iterable[int] = np.flatnonzero(~np.isfinite(values).all(axis=others)).tolist()
    return list(bad)
