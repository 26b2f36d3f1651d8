"""Scores of another scale than 0 to 100 are told from low scores."""

import pytest

from traitwatch_builder.storage.scales import scale_of


@pytest.mark.parametrize(
    ("scores", "scale"),
    [
        ([0.85, 0.1, 0.0, None, 1.0, 0.4], 1.0),
        ([8.0, 1.0, 3.0, 10.0, 0.0], 10.0),
        ([0.0, 1.0, 0.0, 0.0, 98.0], None),
        ([0.0] * 9, None),
        ([0.85, 0.1], None),
        ([], None),
        ([None] * 9, None),
    ],
)
def test_scores_of_another_scale_are_told_from_low_ones(scores: list[float | None], scale: float | None) -> None:
    assert scale_of(scores) == scale
