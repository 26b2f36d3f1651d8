"""What a server is told to score: directories of vectors, the layer of each, and what a response carries by default."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from builder.artifacts import DEFAULT_LAYER, PersonaVector, load_vectors
from server.columns import Columns
from server.errors import ConfigError
from server.tap import TAP_VERSION

# The name of our entry in vLLM's additional_config.
CONFIG_KEY = "traitwatch"
TraitsDefault = Literal["tokens", "summary", "off"]
# A layer index, or "best": the best layer of the trait's card.
Layer = int | Literal["best"]
# Columns of a tapped layer come in steps: the number is part of vLLM's compile cache key, and one more trait should not
# compile anew. A column costs hidden_size floats and next to no time.
_COLUMN_STEP = 16
# Columns of a layer where traits may be loaded while serving.
ADMIN_COLUMNS = 64


@dataclass(frozen=True)
class Settings:
    """The options of `traitwatch serve` that are ours. Plain values, so that they travel to other processes.

    Attributes:
        directories: where the vectors are.
        layer: the layer of every trait that `layer_of` does not name; "best" is the best layer of its card.
        layer_of: trait to its own layer.
        default: what a response carries when its request says nothing.
        admin: whether traits may be loaded and unloaded while serving.
        spare_layers: layers that are tapped beside those of the traits, for traits that are loaded later.
    """

    directories: tuple[Path, ...]
    layer: Layer = DEFAULT_LAYER
    layer_of: Mapping[str, Layer] = field(default_factory=dict)
    default: TraitsDefault = "tokens"
    admin: bool = False
    spare_layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class ServedTrait:
    """A trait that this server scores.

    Attributes:
        vector: its persona vector.
        layer: the layer index at which it is read.
        column: its place among the columns of that layer.
    """

    vector: PersonaVector
    layer: int
    column: int

    @property
    def name(self) -> str:
        """The trait's name."""
        return self.vector.trait


@dataclass(frozen=True, eq=False)
class TraitSet:
    """The traits that a server has at one time. Never changed: loading a trait makes another.

    Attributes:
        traits: by name, in the order in which responses name them.
        columns: the columns of the rows of responses that begin now.
    """

    traits: Mapping[str, ServedTrait]
    columns: Columns


def load_served_traits(settings: Settings) -> list[ServedTrait]:
    """Load the vectors and give each its layer and column.

    Raises:
        ArtifactError: a directory or file is missing or unusable.
        ConfigError: a layer is given for a trait that is not there, or "best" for one whose card knows none.
    """
    vectors = load_vectors(settings.directories)
    names = [vector.trait for vector in vectors]
    for unknown in sorted(set(settings.layer_of) - set(names)):
        raise ConfigError(f"--traits-layer names {unknown!r}, but the vectors are: {', '.join(names)}.")
    used: Counter[int] = Counter()
    served = []
    for vector in vectors:
        layer = chosen_layer(vector, settings.layer_of.get(vector.trait, settings.layer))
        served.append(ServedTrait(vector, layer, used[layer]))
        used[layer] += 1
    return served


def chosen_layer(vector: PersonaVector, layer: Layer) -> int:
    """Return the layer index at which a vector is read; raise `ConfigError` where its card does not know the best."""
    if layer != "best":
        return layer
    if vector.card is None or vector.card.best_layer is None:
        raise ConfigError(
            f"{vector.path} has no card that says which layer is best; run `traitwatch verify`, or give "
            f"--traits-layer {vector.trait}=LAYER."
        )
    return vector.card.best_layer


def trait_set(traits: Iterable[ServedTrait], layers: Iterable[int] = ()) -> TraitSet:
    """Return the set of some traits, which also has the columns of `layers` that none of them uses."""
    by_name = {trait.name: trait for trait in sorted(traits, key=lambda trait: trait.name)}
    widths = dict.fromkeys(layers, 0)
    for trait in by_name.values():
        widths[trait.layer] = max(widths.get(trait.layer, 0), trait.column + 1)
    return TraitSet(by_name, Columns(widths))


def check_fits(traits: Iterable[ServedTrait], model: str, num_layers: int, hidden_size: int) -> None:
    """Refuse vectors that do not fit a model, and layers that it does not have.

    Raises:
        ConfigError: with the shape of the vector and the shape that the model needs.
    """
    needed = [num_layers + 1, hidden_size]
    for trait in traits:
        shape = list(trait.vector.vector.shape)
        if shape != needed:
            raise ConfigError(
                f"{trait.vector.path} has shape {shape}, but {model} needs {needed} (num_layers + 1, hidden_size); "
                "build the vector on this model."
            )
        if not 1 <= trait.layer <= num_layers:
            raise ConfigError(
                f"layer {trait.layer} is out of range for {trait.name!r}: {model} has layers 1 to {num_layers} "
                f"(vector {shape}, model {needed}); choose one with --traits-layer."
            )
        trait.vector.direction(trait.layer)


def tap_config(traits: Iterable[ServedTrait], settings: Settings) -> dict[str, Any]:
    """Return our entry in vLLM's `additional_config`.

    It is part of the hash under which vLLM keeps compiled graphs, so it holds what changes the graph (layers, width,
    version of the tap) and nothing that changes from one start to the next.
    """
    per_layer = Counter(trait.layer for trait in traits)
    most = max([*per_layer.values(), ADMIN_COLUMNS if settings.admin else 1])
    return {
        "tap": TAP_VERSION,
        "layers": sorted({*per_layer, *settings.spare_layers}),
        "columns": -(-most // _COLUMN_STEP) * _COLUMN_STEP,
    }
