"""What an official SDK's objects tell of the scores, of which they know nothing."""

from collections.abc import Iterable
from typing import Any

from tests.support.answers import Told

PROBES = ["probe1", "probe2", "probe4"]


def scored_whole(carrier: Any, num_tokens: int) -> None:
    """Check the scores of an SDK object that has an answer's all."""
    assert carrier.traits_complete is True
    assert list(carrier.traits) == PROBES
    for scores in carrier.traits.values():
        assert len(scores["tokens"]) == num_tokens
        assert scores["tokens"][-1] is None
        assert None not in scores["tokens"][:-1]
        assert isinstance(scores["prompt_last"], float)


def joined(carriers: Iterable[Any]) -> Told:
    """Join what the SDK objects of a stream tell; check that it is all there."""
    told = Told()
    for carrier in carriers:
        told.take(carrier.model_extra or {})
    assert told.complete is True
    assert list(told.traits) == PROBES
    assert all(scores["tokens"][-1] is None and None not in scores["tokens"][:-1] for scores in told.traits.values())
    return told
