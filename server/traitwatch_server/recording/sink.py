"""A scored choice after its end, and the protocol of the sinks that take every such choice: spike log, telemetry."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from traitwatch.spikes import Spike
from traitwatch.vectors import Float64Array
from traitwatch_server.traits import ServedTrait


@dataclass(frozen=True)
class Recorded:
    """One choice of one call of the engine, after its end, with its scores.

    Attributes:
        request_id: the engine's id of the request, which begins with the id of the response. A client may have chosen
            it (`X-Request-Id`, `request_id`).
        call_id: the random id of the call, which exemplars carry.
        index: number of the choice.
        model: the served model's name, or the adapter's that answered.
        engine: engine index, as vLLM's metrics have it.
        traits: the traits for which it was scored.
        mean_z: `[num_traits]`, float64, mean over its token states in standard deviations of the baseline; NaN where
            the trait is uncalibrated or the response has no state.
        spikes: the spikes of each trait.
        prompt_token_ids: tokens of the prompt.
        token_ids: tokens that were generated.
        complete: whether every state was scored.
    """

    request_id: str
    call_id: str
    index: int
    model: str
    engine: str
    traits: tuple[ServedTrait, ...]
    mean_z: Float64Array
    spikes: tuple[tuple[Spike, ...], ...]
    prompt_token_ids: Sequence[int]
    token_ids: Sequence[int]
    complete: bool


class Sink(Protocol):
    """Takes every recorded choice. Both methods are called in the event loop."""

    def record(self, response: Recorded) -> None:
        """Take a choice; return at once, and raise nothing."""

    def close(self) -> None:
        """Write the choices that still wait, then close the files and connections."""
