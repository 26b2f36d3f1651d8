"""A trait of the server's list."""

import pytest

from traitwatch_dashboards.errors import DashboardError
from traitwatch_dashboards.inspector.api.traits import trait_of


def test_an_entry_that_is_not_a_trait_is_refused() -> None:
    with pytest.raises(DashboardError, match="no trait"):
        trait_of({"name": "x"})


@pytest.mark.parametrize(
    "calibration",
    [{"mean": {}, "std": 1.0}, {"mean": 10**400, "std": 1.0}, {"mean": 0.0, "std": 0}, {"mean": "1", "std": 1.0}, [1]],
)
def test_a_baseline_that_makes_no_z_is_refused_with_the_entry(calibration: object) -> None:
    with pytest.raises(DashboardError, match=r"lists an entry that is no trait: .*same version"):
        trait_of({"id": "a", "layer": 3, "calibration": calibration})
