"""Reads the scores in the objects of an official SDK. The SDK does not know the score fields."""

from collections.abc import Iterable
from typing import Any

from tests.support.answers import ReceivedChoice

PROBES = ["probe1", "probe2", "probe4"]


def scored_whole(carrier: Any, num_tokens: int) -> None:
    """Assert that an SDK object has all scores of an answer."""
    assert carrier.traits_complete is True
    assert list(carrier.traits) == PROBES
    for scores in carrier.traits.values():
        assert len(scores["tokens"]) == num_tokens
        assert scores["tokens"][-1] is None
        assert None not in scores["tokens"][:-1]
        assert isinstance(scores["prompt_last"], float)


def joined(carriers: Iterable[Any]) -> ReceivedChoice:
    """Join the scores of the SDK objects of a stream. Assert that they are complete."""
    joined_choice = ReceivedChoice()
    for carrier in carriers:
        joined_choice.take(carrier.model_extra or {})
    assert joined_choice.complete is True
    assert list(joined_choice.traits) == PROBES
    assert all(
        scores["tokens"][-1] is None and None not in scores["tokens"][:-1] for scores in joined_choice.traits.values()
    )
    return joined_choice
