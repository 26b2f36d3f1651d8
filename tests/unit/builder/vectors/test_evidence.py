"""A vector and its evidence are sums over pairs: the order does not count, and the memory does not grow."""

from pathlib import Path

import numpy as np
import pytest

from traitwatch.errors import ArtifactError
from traitwatch.vectors import Float32Array, unit_rows
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.vectors.evidence import Evidence, PairAccumulator

SHAPE = (3, 50)
QUESTIONS = [i // 4 for i in range(40)]


def answers(shift: float, seed: int = 0) -> tuple[Float32Array, Float32Array]:
    """Return 40 pairs: [40, layers, hidden] each."""
    random = np.random.default_rng(seed)
    pos, neg = (random.standard_normal((40, *SHAPE)).astype(np.float32) for _ in "pn")
    return pos + np.float32(shift), neg


def filled(pos: Float32Array, neg: Float32Array, order: list[int] | None = None, seed: int = 0) -> PairAccumulator:
    pairs = PairAccumulator(40, QUESTIONS, SHAPE, seed=seed)
    for i in order or range(80):
        pairs.add(*(("pos", i, pos[i]) if i < 40 else ("neg", i - 40, neg[i - 40])))
    return pairs


def test_the_vector_is_the_difference_of_means() -> None:
    pos, neg = answers(1.0)
    expected = pos.astype(np.float64).mean(0) - neg.astype(np.float64).mean(0)
    got = filled(pos, neg).vector()
    assert got.dtype == np.float32
    assert got == pytest.approx(expected, abs=1e-7)


def test_the_order_of_adding_does_not_count() -> None:
    pos, neg = answers(1.0)
    pos[:, 0, 0] += 1000  # like the massive activations of real models
    first = filled(pos, neg)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(80).tolist()
        other = filled(pos, neg, order)
        assert np.array_equal(first.vector(), other.vector())
        assert np.array_equal(first.null(), other.null())
        assert np.array_equal(first.evidence().halves, other.evidence().halves)


def test_halves_are_vectors_of_halves_of_the_questions() -> None:
    pos, neg = answers(0.5)
    halves = filled(pos, neg).halves()
    assert halves is not None
    differences = (pos - neg).reshape(10, 4, *SHAPE).mean(1)
    # Each half is the mean over five questions: find the five. The halves share no question and leave none out.
    weights = [np.linalg.lstsq(differences.reshape(10, -1).T, half.ravel(), rcond=None)[0] for half in halves]
    chosen = [set(np.flatnonzero(w > 0.1).tolist()) for w in weights]
    assert [len(c) for c in chosen] == [5, 5]
    assert chosen[0] | chosen[1] == set(range(10))
    for half, mine in zip(halves, chosen, strict=True):
        assert half == pytest.approx(differences[sorted(mine)].mean(0), abs=1e-5)


def test_halves_of_a_clear_vector_agree_and_of_noise_do_not() -> None:
    def cosine(shift: float) -> float:
        halves = filled(*answers(shift)).halves()
        assert halves is not None
        one, other = (unit_rows(half)[1] for half in halves)
        return float(one @ other)

    assert cosine(3) > 0.95
    assert abs(cosine(0)) < 0.4


def test_one_question_makes_no_halves() -> None:
    pairs = PairAccumulator(2, ["q", "q"], SHAPE)
    for polarity in ("pos", "neg"):
        for i in range(2):
            pairs.add(polarity, i, np.zeros(SHAPE, dtype=np.float32))  # type: ignore[arg-type]
    assert pairs.halves() is None
    assert pairs.evidence().halves is None


def test_shuffled_labels_swap_within_pairs() -> None:
    pos, neg = answers(1.0)
    null = filled(pos, neg).null()
    assert null.shape == (20, *SHAPE)
    differences = (pos - neg).reshape(40, -1).astype(np.float64)
    signs = np.linalg.lstsq(differences.T, null.reshape(20, -1).T * 40, rcond=None)[0].T
    assert np.abs(signs) == pytest.approx(1.0, abs=1e-3)
    assert 0.4 < (signs > 0).mean() < 0.6
    assert len({tuple(row > 0) for row in signs}) == 20


def test_noise_is_as_long_as_its_null_and_a_trait_is_longer() -> None:
    def share_of_null_below(shift: float) -> float:
        pairs = filled(*answers(shift, seed=3))
        return float((np.linalg.norm(pairs.null(), axis=2) < np.linalg.norm(pairs.vector(), axis=1)).mean())

    assert share_of_null_below(1.0) == 1.0
    assert share_of_null_below(0.0) < 0.95


def test_the_seed_chooses_halves_and_shuffles() -> None:
    pos, neg = answers(1.0)
    one, same, other = (filled(pos, neg, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.null(), same.null())
    assert not np.array_equal(one.null(), other.null())
    assert np.array_equal(one.vector(), other.vector())


def test_a_missing_answer_is_reported() -> None:
    pos, neg = answers(1.0)
    pairs = filled(pos, neg, [i for i in range(80) if i != 47])
    for result in (pairs.vector, pairs.halves, pairs.null):
        with pytest.raises(PipelineError, match=r"1 answers .*neg 7"):
            result()
    with pytest.raises(PipelineError, match="no effective pair"):
        PairAccumulator(0, [], SHAPE).vector()


def test_an_answer_is_added_once_and_fits() -> None:
    pairs = PairAccumulator(2, [0, 1], SHAPE)
    fine = np.zeros(SHAPE, dtype=np.float32)
    pairs.add("pos", 0, fine)
    with pytest.raises(ValueError, match="before"):
        pairs.add("pos", 0, fine)
    with pytest.raises(ValueError, match="no pair 2"):
        pairs.add("pos", 2, fine)
    with pytest.raises(ValueError, match="shape"):
        pairs.add("neg", 0, fine[:2])
    broken = fine.copy()
    broken[2, 5] = np.nan
    with pytest.raises(PipelineError, match=r"layers \[2\]"):
        pairs.add("neg", 0, broken)


@pytest.mark.parametrize("with_halves", [True, False])
def test_evidence_comes_back_from_its_file(tmp_path: Path, with_halves: bool) -> None:
    evidence = filled(*answers(1.0)).evidence()
    evidence = evidence if with_halves else Evidence(None, evidence.null, evidence.questions)
    evidence.save(tmp_path / "e.npz")
    back = Evidence.load(tmp_path / "e.npz")
    assert np.array_equal(back.null, evidence.null)
    assert back.null.dtype == np.float32
    assert back.questions == tuple(map(str, range(10)))
    assert (back.halves is None) == (not with_halves)
    assert not with_halves or np.array_equal(back.halves, evidence.halves)


def test_a_file_that_is_no_evidence_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.npz"
    with pytest.raises(ArtifactError, match="no such file"):
        Evidence.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="extract again"):
        Evidence.load(path)
    whole = io_bytes(filled(*answers(1.0)).evidence(), tmp_path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="extract again"):
        Evidence.load(path)
    np.savez(path, null=np.zeros((2, 3, 4)), halves=np.zeros((2, 3, 5)))
    with pytest.raises(ArtifactError, match="shapes"):
        Evidence.load(path)
    np.save(tmp_path / "e.npy", np.zeros(3))
    with pytest.raises(ArtifactError, match="extract again"):
        Evidence.load(tmp_path / "e.npy")


def test_evidence_of_earlier_versions_does_not_know_the_questions(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", null=np.zeros((2, 3, 4)))
    assert Evidence.load(tmp_path / "e.npz").questions == ()


def io_bytes(evidence: Evidence, directory: Path) -> bytes:
    evidence.save(directory / "whole.npz")
    return (directory / "whole.npz").read_bytes()


def test_each_layer_becomes_a_unit_vector_and_a_zero_layer_stays_zero() -> None:
    vector = np.array([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]], dtype=np.float32)
    assert unit_rows(vector) == pytest.approx(np.array([[0.6, 0.8], [0.0, 1.0], [0.0, 0.0]]))
    assert unit_rows(np.stack([vector, 2 * vector]))[1] == pytest.approx(unit_rows(vector))
