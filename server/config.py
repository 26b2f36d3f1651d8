"""What a server is told to score: directories of vectors, the layer of each, and what a response carries by default."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from builder.artifacts import DEFAULT_LAYER, PersonaVector, load_vectors
from server.errors import ConfigError
from server.tap import MAX_TRAITS, TAP_VERSION

# The name of our entry in vLLM's additional_config.
CONFIG_KEY = "traitwatch"
TraitsDefault = Literal["tokens", "summary", "off"]


@dataclass(frozen=True)
class Settings:
    """The options of `traitwatch serve` that are ours. Plain values, so that they travel to other processes.

    Attributes:
        directories: where the vectors are.
        layer: the layer of every trait that `layer_of` does not name.
        layer_of: trait to its own layer.
        default: what a response carries when its request says nothing.
    """

    directories: tuple[Path, ...]
    layer: int = DEFAULT_LAYER
    layer_of: Mapping[str, int] = field(default_factory=dict)
    default: TraitsDefault = "tokens"


@dataclass(frozen=True)
class ServedTrait:
    """A trait that this server scores.

    Attributes:
        vector: its persona vector.
        layer: the layer index at which it is read.
        column: its place among the columns of the tap, which are in ascending order of layer.
    """

    vector: PersonaVector
    layer: int
    column: int

    @property
    def name(self) -> str:
        """The trait's name."""
        return self.vector.trait


def load_served_traits(settings: Settings) -> list[ServedTrait]:
    """Load the vectors and give each its layer and column.

    Raises:
        ArtifactError: a directory or file is missing or unusable.
        ConfigError: a layer is given for a trait that is not there, or a layer has more vectors than it takes.
    """
    vectors = load_vectors(settings.directories)
    names = [vector.trait for vector in vectors]
    for unknown in sorted(set(settings.layer_of) - set(names)):
        raise ConfigError(f"--traits-layer names {unknown!r}, but the vectors are: {', '.join(names)}.")
    layered = sorted((settings.layer_of.get(v.trait, settings.layer), v.trait, v) for v in vectors)
    for layer, count in Counter(layer for layer, _, _ in layered).items():
        if count > MAX_TRAITS:
            raise ConfigError(f"{count} vectors at layer {layer}; a layer takes {MAX_TRAITS} at most.")
    return [ServedTrait(vector, layer, column) for column, (layer, _, vector) in enumerate(layered)]


def check_fits(traits: Sequence[ServedTrait], model: str, num_layers: int, hidden_size: int) -> None:
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


def tap_config(traits: Sequence[ServedTrait]) -> dict[str, Any]:
    """Return our entry in vLLM's `additional_config`.

    It is part of the hash under which vLLM keeps compiled graphs, so it holds what changes the graph (layers, width,
    version of the tap) and nothing that changes from one start to the next.
    """
    return {
        "tap": TAP_VERSION,
        "layers": sorted({trait.layer for trait in traits}),
        "max_traits": MAX_TRAITS,
    }
