"""The traits that a server scores: their vectors, layers, columns in the tap, and thresholds."""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from traitwatch.spikes import MIN_TOKENS, WINDOW
from traitwatch.vectors import PersonaVector, load_vectors, missing_embeddings
from traitwatch_server.errors import ConfigError
from traitwatch_server.settings import Layer, Settings
from traitwatch_server.wire import TAP_VERSION

# Columns of a tapped layer come in steps: their number is part of vLLM's compile cache key, and one more trait should
# not make vLLM compile again. A column costs hidden_size floats and next to no time.
_COLUMN_STEP = 16
# Columns of a layer where traits may be loaded while serving.
ADMIN_COLUMNS = 64

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Threshold:
    """The threshold above which a run of tokens is a spike.

    Attributes:
        z: the smoothed z must be above this.
        rate: the share of neutral responses that may have a spike. The card promises this share for `z`; where the
            operator has chosen `z`, the share is the operator's `--traits-spike-rate`.
    """

    z: float
    rate: float


@dataclass(frozen=True)
class ServedTrait:
    """A trait that this server scores.

    Attributes:
        vector: its persona vector.
        layer: the layer index at which the trait is read.
        column: the trait's place among the columns of that layer.
        threshold: the threshold of a spike; None where none is known, and then the trait has no spikes.
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
        """Mean and standard deviation of neutral tokens, units of the hidden state; NaN where uncalibrated."""
        found = self.vector.calibration(self.layer)
        return (math.nan, math.nan) if found is None else (found.mean, found.std)


class Columns:
    """The columns of a response's rows. Two are equal where their widths are equal.

    Attributes:
        widths: tapped layer to its number of columns, in ascending order of layer.
        total: columns of all layers.
    """

    def __init__(self, widths: Mapping[int, int]):
        self.widths = dict(sorted(widths.items()))
        self.total = sum(self.widths.values())
        self._first: dict[int, int] = {}
        first = 0
        for layer, width in self.widths.items():
            self._first[layer] = first
            first += width

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Columns) and other.widths == self.widths

    def __hash__(self) -> int:
        return hash(tuple(self.widths.items()))

    def place(self, layer: int, column: int) -> int:
        """Return the index in a row of a layer's column."""
        return self._first[layer] + column

    def copies(self, layers: Sequence[int], widths: Sequence[int]) -> tuple[tuple[slice, slice], ...]:
        """Return how to copy a worker's row: pairs of (columns of the worker's row, columns of ours).

        Args:
            layers: the worker's tapped layers, ascending.
            widths: the number of columns that the worker sends of each layer.

        Raises:
            ValueError: a layer is not tapped.
        """
        return _copies(self, tuple(layers), tuple(widths))


@lru_cache(maxsize=256)
def _copies(columns: Columns, layers: tuple[int, ...], widths: tuple[int, ...]) -> tuple[tuple[slice, slice], ...]:
    unknown = [layer for layer in layers if layer not in columns.widths]
    if unknown or not layers or len(layers) != len(widths):
        raise ValueError(
            f"rows of layers {list(layers)} with {list(widths)} columns; tapped are {list(columns.widths)}"
        )
    pairs: list[tuple[slice, slice]] = []
    first = 0
    for layer, width in zip(layers, widths, strict=True):
        count = min(width, columns.widths[layer])
        target = columns.place(layer, 0)
        whole = pairs and pairs[-1][0].stop == first and pairs[-1][1].stop == target
        if whole:
            source_start, target_start = pairs[-1][0].start, pairs[-1][1].start
            pairs[-1] = (slice(source_start, first + count), slice(target_start, target + count))
        else:
            pairs.append((slice(first, first + count), slice(target, target + count)))
        first += width
    return tuple(pairs)


@dataclass(frozen=True, eq=False)
class TraitSet:
    """The traits that a server has at one time. A set never changes: loading a trait makes another set.

    Attributes:
        traits: by name, in the order in which responses name them.
        columns: the columns of the rows of responses that begin now.
    """

    traits: Mapping[str, ServedTrait]
    columns: Columns

    @cached_property
    def all(self) -> tuple[ServedTrait, ...]:
        """The traits, in the order of `traits`."""
        return tuple(self.traits.values())

    @cached_property
    def places(self) -> npt.NDArray[np.intp]:
        """The index in a row of each trait's column: `[num_traits]`."""
        return np.array([self.columns.place(trait.layer, trait.column) for trait in self.all], dtype=np.intp)


def load_served_traits(settings: Settings) -> list[ServedTrait]:
    """Load the vectors and give each of them its layer and column.

    Raises:
        ArtifactError: a directory or file is missing or unusable.
        ConfigError: an option gives a layer or a threshold for a trait that is not there, or "best" for a trait whose
            card has no best layer; or a card has no threshold for the rate.
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
    """Return the layer index at which a vector is read; raise `ConfigError` for "best" where no card names it."""
    if layer != "best":
        return layer
    if vector.card is None or vector.card.best_layer is None:
        raise ConfigError(
            f"{vector.path} has no card that says which layer is best; run `traitwatch verify`, or give "
            f"--traits-layer {vector.trait}=LAYER."
        )
    return vector.card.best_layer


def chosen_threshold(vector: PersonaVector, layer: int, settings: Settings) -> Threshold | None:
    """Return the threshold of a trait: the operator's, or its card's for the wanted rate.

    Returns:
        None, with a warning, where the vector is uncalibrated or its calibration had too few answers for thresholds.

    Raises:
        ConfigError: the card has thresholds, but none for this rate; or the operator's is for an uncalibrated vector.
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
            "The card of %s has no threshold for spikes (of %d tokens, smoothed over %d): the trait has no spikes, "
            "and no alert will fire for it; run `traitwatch calibrate`, or give --traits-threshold %s=Z.",
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
    """Return the set of some traits. It has columns for each of `layers` too, also where no trait uses the layer."""
    by_name = {trait.name: trait for trait in sorted(traits, key=lambda trait: trait.name)}
    widths = dict.fromkeys(layers, 0)
    for trait in by_name.values():
        widths[trait.layer] = max(widths.get(trait.layer, 0), trait.column + 1)
    return TraitSet(by_name, Columns(widths))


def check_fits(traits: Iterable[ServedTrait], model: str, num_layers: int, hidden_size: int) -> None:
    """Refuse vectors that do not fit a model, and layers that the model does not have.

    Raises:
        ConfigError: with the shape of the vector and the shape that the model needs.
    """
    needed = [num_layers + 1, hidden_size]
    for trait in traits:
        shape = list(trait.vector.vector.shape)
        if shape != needed:
            raise ConfigError(
                f"{trait.vector.path} has shape {shape}, but {model} needs {needed} (num_layers + 1, hidden_size); "
                + (missing_embeddings(trait.vector, num_layers, hidden_size) or "build the vector on this model.")
            )
        if not 1 <= trait.layer <= num_layers:
            raise ConfigError(
                f"layer {trait.layer} is out of range for {trait.name!r}: {model} has layers 1 to {num_layers} "
                f"(vector {shape}, model {needed}); choose one with --traits-layer."
            )
        trait.vector.direction(trait.layer)


def tap_config(traits: Iterable[ServedTrait], settings: Settings) -> dict[str, Any]:
    """Return our entry in vLLM's `additional_config`.

    The entry is part of the hash under which vLLM keeps compiled graphs. So it holds what changes the graph (layers,
    width, version of the tap), and nothing that changes from one start to the next.
    """
    per_layer = Counter(trait.layer for trait in traits)
    most = max([*per_layer.values(), ADMIN_COLUMNS if settings.admin else 1])
    return {
        "tap": TAP_VERSION,
        "layers": sorted({*per_layer, *settings.spare_layers}),
        "columns": -(-most // _COLUMN_STEP) * _COLUMN_STEP,
    }
