"""The options of `traitwatch serve` that are ours, as plain values that travel to other processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from traitwatch.vectors import DEFAULT_LAYER

TraitsDefault = Literal["tokens", "summary", "off"]


# A layer index, or "best": the best layer of the trait's card.
Layer = int | Literal["best"]


# Share of neutral responses that may have a spike, unless told otherwise; cards know the threshold for it.
DEFAULT_SPIKE_RATE = 0.01


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
