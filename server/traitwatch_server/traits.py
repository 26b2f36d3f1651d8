"""What a server is told to score: directories of vectors, the layer of each, and what a response carries by default."""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from traitwatch.spikes import MIN_TOKENS, WINDOW
from traitwatch.vectors import DEFAULT_LAYER, PersonaVector, load_vectors
from traitwatch_server.columns import Columns
from traitwatch_server.errors import ConfigError
from traitwatch_server.worker.tap import TAP_VERSION

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
# Share of neutral responses that may have a spike, unless told otherwise; cards know the threshold for it.
DEFAULT_SPIKE_RATE = 0.01

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SpikeLogSettings:
    """Where spikes are logged.

    Attributes:
        file: the file; `-` is standard output.
        text: whether the prompt and the answer are logged too.
        max_bytes: a file that would become longer is rotated.
        keep: rotated files that are kept.
    """

    file: str
    text: bool = False
    max_bytes: int = 50 * 2**20
    keep: int = 5


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
        spike_rate: the share of neutral responses that may have a spike.
        threshold_of: trait to a threshold (smoothed z) that takes the place of its card's.
        spike_log: where spikes are logged; None for nowhere.
        drain_seconds: how long answers may take to finish when the server is told to end.
    """

    directories: tuple[Path, ...]
    layer: Layer = DEFAULT_LAYER
    layer_of: Mapping[str, Layer] = field(default_factory=dict)
    default: TraitsDefault = "tokens"
    admin: bool = False
    spare_layers: tuple[int, ...] = ()
    spike_rate: float = DEFAULT_SPIKE_RATE
    threshold_of: Mapping[str, float] = field(default_factory=dict)
    spike_log: SpikeLogSettings | None = None
    drain_seconds: float = 0.0


@dataclass(frozen=True)
class Threshold:
    """What makes a run of tokens a spike.

    Attributes:
        z: the smoothed z must be above this.
        rate: the share of neutral responses that may have a spike: what the card promises for `z`, or what the operator
            who chose `z` says.
    """

    z: float
    rate: float


@dataclass(frozen=True)
class ServedTrait:
    """A trait that this server scores.

    Attributes:
        vector: its persona vector.
        layer: the layer index at which it is read.
        column: its place among the columns of that layer.
        threshold: what makes a spike; None where nobody knows, and then there are none.
    """

    vector: PersonaVector
    layer: int
    column: int
    threshold: Threshold | None

    @property
    def name(self) -> str:
        """The trait's name."""
        return self.vector.trait

    @cached_property
    def baseline(self) -> tuple[float, float]:
        """Mean and standard deviation of neutral tokens, units of the hidden state; NaN where it is uncalibrated."""
        found = self.vector.calibration(self.layer)
        return (math.nan, math.nan) if found is None else (found.mean, found.std)


@dataclass(frozen=True, eq=False)
class TraitSet:
    """The traits that a server has at one time. Never changed: loading a trait makes another.

    Attributes:
        traits: by name, in the order in which responses name them.
        columns: the columns of the rows of responses that begin now.
    """

    traits: Mapping[str, ServedTrait]
    columns: Columns

    @cached_property
    def all(self) -> tuple[ServedTrait, ...]:
        """The traits, in that order."""
        return tuple(self.traits.values())

    @cached_property
    def places(self) -> npt.NDArray[np.intp]:
        """Where the columns of each trait stand in a row: `[num_traits]`."""
        return np.array([self.columns.place(trait.layer, trait.column) for trait in self.all], dtype=np.intp)


def load_served_traits(settings: Settings) -> list[ServedTrait]:
    """Load the vectors and give each its layer and column.

    Raises:
        ArtifactError: a directory or file is missing or unusable.
        ConfigError: a layer or threshold is given for a trait that is not there, "best" for one whose card knows none,
            or a card does not know the threshold for the rate.
    """
    vectors = load_vectors(settings.directories)
    names = [vector.trait for vector in vectors]
    for option, named in (("--traits-layer", settings.layer_of), ("--traits-threshold", settings.threshold_of)):
        for unknown in sorted(set(named) - set(names)):
            raise ConfigError(f"{option} names {unknown!r}, but the vectors are: {', '.join(names)}.")
    used: Counter[int] = Counter()
    served = []
    for vector in vectors:
        layer = chosen_layer(vector, settings.layer_of.get(vector.trait, settings.layer))
        served.append(ServedTrait(vector, layer, used[layer], chosen_threshold(vector, layer, settings)))
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


def chosen_threshold(vector: PersonaVector, layer: int, settings: Settings) -> Threshold | None:
    """Return what makes a spike of a trait: the operator's threshold, or its card's for the wanted rate.

    Returns:
        None, with a warning, where the vector is uncalibrated or its calibration had too few answers for thresholds.

    Raises:
        ConfigError: the card has thresholds, but not for this rate; or there is one for a vector that is uncalibrated.
    """
    baseline = vector.calibration(layer)
    if baseline is None or vector.card is None or vector.card.calibration is None:
        if vector.trait in settings.threshold_of:
            raise ConfigError(
                f"--traits-threshold {vector.trait}: the vector is not calibrated, so its scores have no z that could "
                "pass a threshold; run `traitwatch calibrate`."
            )
        logger.warning(
            "%s is not calibrated: its scores have no z, it has no spikes, and no alert will fire for it; run "
            "`traitwatch calibrate`.",
            vector.trait,
        )
        return None
    if vector.trait in settings.threshold_of:
        return Threshold(settings.threshold_of[vector.trait], settings.spike_rate)
    calibration = vector.card.calibration
    measured_as = (calibration.spike_window or WINDOW, calibration.spike_min_tokens or MIN_TOKENS)
    if not baseline.thresholds or measured_as != (WINDOW, MIN_TOKENS):
        logger.warning(
            "The card of %s has no threshold for spikes (of %d tokens, smoothed over %d): it will have none, and no "
            "alert will fire for it; run `traitwatch calibrate`, or give --traits-threshold %s=Z.",
            *(vector.trait, MIN_TOKENS, WINDOW, vector.trait),
        )
        return None
    for known in baseline.thresholds:
        if math.isclose(known.rate, settings.spike_rate):
            return Threshold(known.z, known.rate)
    rates = ", ".join(f"{known.rate:g}" for known in baseline.thresholds)
    raise ConfigError(
        f"--traits-spike-rate {settings.spike_rate:g}: the card of {vector.trait!r} knows the thresholds for {rates}; "
        f"take one of these, or give --traits-threshold {vector.trait}=Z too."
    )


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
