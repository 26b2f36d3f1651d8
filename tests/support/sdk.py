"""What an official SDK's objects tell of the scores, of which they know nothing."""

from collections.abc import Iterable
from typing import Any

from tests.support.answers import ReceivedChoice

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


def joined(carriers: Iterable[Any]) -> ReceivedChoice:
    """Join what the SDK objects of a stream tell; check that it is all there."""
    joined_choice = ReceivedChoice()
    for carrier in carriers:
        joined_choice.take(carrier.model_extra or {})
    assert joined_choice.complete is True
    assert list(joined_choice.traits) == PROBES
    assert all(
        scores["tokens"][-1] is None and None not in scores["tokens"][:-1] for scores in joined_choice.traits.values()
    )
    return joined_choice
