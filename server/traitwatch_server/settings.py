"""Our options of `traitwatch serve`, as plain values that travel to other processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from traitwatch.vectors import DEFAULT_LAYER

TraitsDefault = Literal["tokens", "summary", "off"]
TraitsAllow = Literal["summary", "tokens", "prompt"]


# A layer index, or "best": the best layer of the trait's card.
Layer = int | Literal["best"]


# Share of neutral responses that may have a spike, by default. Cards have the threshold for this share.
DEFAULT_SPIKE_RATE = 0.01


@dataclass(frozen=True)
class SpikeLogSettings:
    """The log of spikes.

    Attributes:
        file: the file; `-` is standard output.
        text: whether the log has the prompt and the answer too.
        max_bytes: a file that would become longer is rotated.
        keep: number of rotated files that stay.
    """

    file: str
    text: bool = False
    max_bytes: int = 50 * 2**20
    keep: int = 5


@dataclass(frozen=True)
class Settings:
    """Our options of `traitwatch serve`.

    Attributes:
        directories: directories of vectors.
        layer: the layer of each trait that is not in `layer_of`; "best" is the best layer of the trait's card.
        layer_of: trait to its own layer.
        default: the part of the scores in a response whose request has no `traits` field.
        allow: the most that a request may ask for; each includes those before it.
        max_prompt: tokens of the longest prompt whose projections a request may ask for; None for no limit.
        admin: whether an operator may load and unload traits while the server serves.
        admin_key: the key of an operator; None where the routes of an operator are off.
        spare_layers: layers to tap beside those of the traits, for traits that are loaded later.
        spike_rate: the share of neutral responses that may have a spike.
        threshold_of: trait to a threshold (smoothed z), in place of the card's.
        spike_log: the log of spikes; None for no log.
        drain_seconds: how long running answers may take to finish when the server gets SIGTERM or Ctrl-C.
    """

    directories: tuple[Path, ...]
    layer: Layer = DEFAULT_LAYER
    layer_of: Mapping[str, Layer] = field(default_factory=dict)
    default: TraitsDefault = "tokens"
    allow: TraitsAllow = "prompt"
    max_prompt: int | None = None
    admin: bool = False
    # Not in the `repr`: what is written into a log is no secret any more.
    admin_key: str | None = field(default=None, repr=False)
    spare_layers: tuple[int, ...] = ()
    spike_rate: float = DEFAULT_SPIKE_RATE
    threshold_of: Mapping[str, float] = field(default_factory=dict)
    spike_log: SpikeLogSettings | None = None
    drain_seconds: float = 0.0
