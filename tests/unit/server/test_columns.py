"""Where a worker's columns go in the rows of a response."""

import pytest

from traitwatch_server.traits import Columns

THREE = Columns({20: 2, 10: 1, 30: 1})


def test_layers_stand_side_by_side_in_ascending_order() -> None:
    assert [THREE.place(10, 0), THREE.place(20, 1), THREE.place(30, 0)] == [0, 2, 3]
    assert THREE.total == 4


@pytest.mark.parametrize(
    ("layers", "widths", "copies"),
    [
        ([10, 20, 30], [1, 2, 1], [(0, 4, 0, 4)]),
        ([10, 20], [1, 2], [(0, 3, 0, 3)]),
        ([30], [1], [(0, 1, 3, 4)]),
        # A trait was loaded later. Its column is not part of this response.
        ([10, 20, 30], [1, 3, 1], [(0, 3, 0, 3), (4, 5, 3, 4)]),
        # The worker has not yet used a column of a later set.
        ([10, 20, 30], [1, 1, 1], [(0, 2, 0, 2), (2, 3, 3, 4)]),
    ],
)
def test_which_columns_are_copied(
    layers: list[int], widths: list[int], copies: list[tuple[int, int, int, int]]
) -> None:
    got = THREE.copies(layers, widths)
    assert [(a.start, a.stop, b.start, b.stop) for a, b in got] == copies


@pytest.mark.parametrize(("layers", "widths"), [([7], [1]), ([], []), ([10, 20], [1])])
def test_impossible_columns_are_refused(layers: list[int], widths: list[int]) -> None:
    with pytest.raises(ValueError, match="tapped are"):
        THREE.copies(layers, widths)
