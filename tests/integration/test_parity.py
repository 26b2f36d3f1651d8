"""A number has one meaning, end to end: the server reports the projections that transformers computes."""

import pytest

from tests.support.parity import check_parity
from tests.support.reference import Reference
from tests.support.serving import Server
from traitwatch.vectors import Float32Array

pytestmark = pytest.mark.engine


def test_projections_are_those_of_transformers(
    embedded: Server,
    reference: Reference,
    in_served_precision: Reference,
    directions: dict[str, tuple[int, Float32Array]],
) -> None:
    check_parity(embedded, reference, in_served_precision, directions)
