"""Scored responses for the tests of spike log, metrics and telemetry."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from traitwatch.spikes import Spike
from traitwatch.vectors import PersonaVector
from traitwatch_server.recording.sink import Recorded
from traitwatch_server.traits import ServedTrait, Threshold

SPIKE = Spike(start=1, end=4, peak_z=5.91239)
WORDS = ["zero", "one", "two", "three", "four", "five"]


def trait(name: str = "paternalism", threshold: float | None = 3.5) -> ServedTrait:
    """Return a trait at layer 2."""
    vector = PersonaVector(name, np.ones((4, 4), dtype=np.float32), None, Path(f"{name}.pt"))
    return ServedTrait(vector, 2, 0, None if threshold is None else Threshold(threshold, 0.01))


def response(
    request_id: str = "chatcmpl-1",
    *,
    spikes: Sequence[tuple[Spike, ...]] = ((SPIKE,),),
    mean_z: Sequence[float] = (1.23456789,),
    traits: Sequence[ServedTrait] | None = None,
) -> Recorded:
    """Return a response with the six tokens 0 to 5 to the prompt 5, 4."""
    traits = [trait(f"trait-{i}") for i in range(len(spikes))] if traits is None else traits
    return Recorded(
        request_id=request_id,
        call_id="0123456789abcdef",
        index=1,
        model="tiny",
        engine="0",
        traits=tuple(traits),
        mean_z=np.array(mean_z, dtype=np.float64),
        spikes=tuple(spikes),
        prompt_token_ids=[5, 4],
        token_ids=list(range(6)),
        complete=True,
    )


def decode(ids: Sequence[int]) -> str:
    """Return the words of some tokens."""
    return " ".join(WORDS[i] for i in ids)
