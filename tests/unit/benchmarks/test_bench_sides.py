"""Both servers of a comparison get the same options. Each side loads the number of vectors in its name."""

from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.serving.plan import CONTROL, HIDDEN_STATES, PLAIN, traits_side
from tests.benchmarks.serving.sides import make_side, vectors_of
from traitwatch.vectors import load_vectors

MODEL = Path("/model")


@pytest.mark.parametrize("name", [PLAIN, CONTROL, HIDDEN_STATES, *(traits_side(count) for count in (0, 1, 6, 64))])
def test_a_mode_is_the_same_option_everywhere(name: str, tmp_path: Path) -> None:
    eager = make_side(name, MODEL, "eager", tmp_path).command
    assert eager.count("--enforce-eager") == 1
    assert [part for part in eager if part != "--enforce-eager"] == make_side(name, MODEL, "compiled", tmp_path).command


@pytest.mark.parametrize("count", [1, 6, 64])
def test_a_side_has_the_number_of_vectors_in_its_name(count: int, tmp_path: Path) -> None:
    vectors = load_vectors([vectors_of(count, tmp_path)])
    assert len(vectors) == count
    assert {vector.vector.shape for vector in vectors} == {(31, 576)}
    assert all((vector.card is None) == (count == 64) for vector in vectors)


def test_random_vectors_are_of_unit_scale_and_not_alike(tmp_path: Path) -> None:
    rows = np.stack([vector.vector[20] for vector in load_vectors([vectors_of(64, tmp_path)])])
    norms = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(norms, 1.0, atol=0.2)
    cosines = rows @ rows.T / np.outer(norms, norms)
    assert np.abs(cosines[~np.eye(64, dtype=bool)]).max() < 0.3


def test_only_the_scoring_sides_score_by_default(tmp_path: Path) -> None:
    def default(count: int) -> str:
        command = make_side(traits_side(count), MODEL, "eager", tmp_path).command
        return command[command.index("--traits-default") + 1]

    assert [default(count) for count in (0, 1, 6, 64)] == ["off", "tokens", "tokens", "tokens"]
