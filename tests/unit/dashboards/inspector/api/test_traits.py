"""A trait of the server's list."""

import pytest

from traitwatch_dashboards.errors import DashboardError
from traitwatch_dashboards.inspector.api.traits import trait_of


def test_an_entry_that_is_not_a_trait_is_refused() -> None:
    with pytest.raises(DashboardError, match="no trait"):
        trait_of({"name": "x"})
