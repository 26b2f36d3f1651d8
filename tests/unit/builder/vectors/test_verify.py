"""A vector is verified on held-out answers, and the verdict names a useless vector plainly."""

from typing import Any

import numpy as np
import pytest

from traitwatch.card import LayerVerification, Verification
from traitwatch.vectors import DEFAULT_LAYER, unit_rows
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.vectors.evidence import Evidence, PairAccumulator
from traitwatch_builder.vectors.projections import AnswerProjections
from traitwatch_builder.vectors.verdict import served_layer
from traitwatch_builder.vectors.verify import auc, aucs, best_layer, correlation, verify

LAYERS, HIDDEN = 5, 64


# --- the statistics


def test_auc_counts_pairs_in_order_and_ties_half() -> None:
    assert auc([3, 4], [1, 2]) == 1.0
    assert auc([1, 2], [3, 4]) == 0.0
    assert auc([1, 2], [1, 2]) == 0.5
    assert auc([2], [1, 2, 3, 4]) == pytest.approx(0.375)


def test_auc_is_that_of_its_definition_for_every_row() -> None:
    random = np.random.default_rng(0)
    pos, neg = random.integers(0, 6, (2, 7, 4)) + 1.0, random.integers(0, 6, (2, 9, 4)) + 0.0
    got = aucs(pos.transpose(0, 2, 1), neg.transpose(0, 2, 1))
    assert got.shape == (2, 4)
    for i in range(2):
        for column in range(4):
            p, n = pos[i, :, column, None], neg[i, None, :, column]
            assert got[i, column] == pytest.approx((p > n).mean() + 0.5 * (p == n).mean())


def test_auc_needs_both_polarities() -> None:
    with pytest.raises(PipelineError, match="both polarities"):
        auc([1.0], [])


def test_correlation_leaves_out_answers_without_a_score() -> None:
    x = np.array([1.0, 2.0, 3.0, 99.0])
    assert correlation(x, [10.0, 20.0, 30.0, None]) == pytest.approx(1.0)
    assert correlation(x, [30.0, 20.0, 10.0, None]) == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("x", "scores"),
    [
        ([1.0, 2.0, 3.0], [5.0, 5.0, 5.0]),
        ([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]),
        ([1.0, 2.0, 3.0], [1.0, 2.0, None]),
        ([1.0, 2.0], [1.0, 2.0]),
        ([], []),
    ],
)
def test_there_is_no_correlation_of_constant_or_too_few_values(x: list[float], scores: list[Any]) -> None:
    assert correlation(np.array(x), scores) is None


# --- the best layer


def rows(values: list[float | None], **fields: float) -> list[LayerVerification]:
    return [LayerVerification(layer=i, norm=1.0, auc=value, **fields) for i, value in enumerate(values)]  # type: ignore[arg-type]


def test_the_best_layer_is_in_the_middle_of_the_best_run() -> None:
    layer, reason = best_layer(rows([1.0, 0.7, 0.9, 0.6, 0.9, 0.9, 0.9, 1.0]))
    assert layer == 5
    assert "layers 4 to 6" in reason
    assert "0.900" in reason


def test_a_layer_without_auc_ends_a_run() -> None:
    assert best_layer(rows([1.0, 0.9, None, 0.9, 0.9, 0.2]))[0] == 4
    with pytest.raises(PipelineError, match="no layer has"):
        best_layer(rows([1.0, None, 1.0]))


def test_a_model_of_one_layer_is_read_there() -> None:
    assert best_layer(rows([0.9, 0.6]))[0] == 1


def test_the_layer_that_will_be_served() -> None:
    assert served_layer(32) == served_layer(DEFAULT_LAYER) == DEFAULT_LAYER
    assert served_layer(12) == 11


# --- the verdict on the vector of a simulated model


def verified(
    shift: dict[int, float], pairs: int = 100, served: int = 2, spread: float = 1.0, null: bool = True, seed: int = 0
) -> Verification:
    """Verify the vector of a simulated model.

    Args:
        shift: how far apart the conditions are at a layer, in standard deviations of an answer's mean state.
        pairs: pairs that make the vector, and held-out answers of each polarity.
        served: the layer that is served.
        spread: 1 if the judge's score follows the trait within a condition, 0 if the score is noise.
        null: whether `verify` gets the evidence.
        seed: seeds all random numbers.
    """
    random = np.random.default_rng(seed)
    direction = random.standard_normal((LAYERS, HIDDEN))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    strength = np.array([shift.get(i, 0.0) for i in range(LAYERS)])[:, None]

    def answers(polarity: int) -> tuple[np.ndarray, list[float | None]]:
        degree = random.standard_normal(pairs)
        states = random.standard_normal((pairs, LAYERS, HIDDEN)) / 2
        states += direction * strength * (polarity + 0.7 * degree[:, None, None])
        noise = random.standard_normal(pairs)
        scores = 50 + 20 * polarity + 8 * (spread * degree + (1 - spread) * noise)
        return states.astype(np.float32), list(np.clip(scores, 0, 100))

    accumulator = PairAccumulator(pairs, [i // 5 for i in range(pairs)], (LAYERS, HIDDEN))
    for name, polarity in (("pos", 1), ("neg", -1)):
        for i, state in enumerate(answers(polarity)[0]):
            accumulator.add(name, i, state)  # type: ignore[arg-type]
    vector, evidence = accumulator.vector(), accumulator.evidence()
    (pos, pos_scores), (neg, neg_scores) = answers(1), answers(-1)

    def on(states: np.ndarray, directions: np.ndarray) -> np.ndarray:
        return np.einsum("nlh,...lh->l...n", states, unit_rows(directions)).astype(np.float32)

    def projections(states: np.ndarray, scores: list[float | None]) -> AnswerProjections:
        response = on(states, vector)
        return AnswerProjections(response, response, on(states, evidence.null) if null else None, scores)

    return verify(
        vector,
        evidence if null else None,
        projections(pos, pos_scores),
        projections(neg, neg_scores),
        served_layer=served,
    )


def test_a_good_vector_is_called_good_with_its_evidence() -> None:
    result = verified({1: 0.6, 2: 1.5, 3: 0.6})
    best = result.layers[2]
    assert result.better_than_null
    assert result.verdict.startswith("Good: at layer 2, its best,")
    assert "null" not in result.verdict
    assert (result.num_pos, result.num_neg) == (100, 100)
    assert best.auc is not None
    assert best.auc > 0.9
    assert best.auc_prompt_last == best.auc
    assert best.null_norm is not None
    assert best.norm > best.null_norm
    assert best.split_half_cosine is not None
    assert best.split_half_cosine > 0.5
    assert best.correlation_pos is not None
    assert best.correlation_neg is not None
    assert min(best.correlation_pos, best.correlation_neg) > 0.5
    assert best.correlation is not None
    assert best.correlation > 0.8


def test_the_verdict_on_noise_is_no_better_than_chance() -> None:
    """By luck, the best of several layers sometimes has an AUC above the null's, but is seldom longer as well."""
    results = [verified({}, seed=seed) for seed in range(20)]
    assert sum(result.better_than_null for result in results) <= 2
    rejected = [result for result in results if not result.better_than_null]
    assert all(result.verdict.startswith("No better than chance: ") for result in rejected)
    assert all("no better than the null" in r.verdict or "no longer than the null" in r.verdict for r in rejected)
    assert any("does not reproduce" in result.verdict for result in rejected)


def test_the_strongest_vectors_are_better_than_a_null_that_shares_their_difference() -> None:
    result = verified({2: 8.0}, served=2)
    best = result.layers[2]
    assert best.auc is not None
    assert best.null_auc is not None
    assert best.null_auc >= best.auc > 0.95, "a random share of the difference separates the conditions as well"
    assert result.better_than_null
    assert result.verdict.startswith("Good")


def test_a_weak_vector_is_doubtful() -> None:
    result = verified({2: 0.3})
    assert result.layers[2].auc is not None
    assert result.layers[2].auc < 0.8
    assert result.verdict.startswith("Doubtful: ")
    assert "below 0.8" in result.verdict


def test_the_layer_that_is_served_is_judged_too() -> None:
    result = verified({2: 1.5}, served=1)
    assert result.better_than_null
    assert result.verdict.startswith("Doubtful: at layer 2, its best,")
    assert "At layer 1, which is served unless another is chosen" in result.verdict
    assert "it is no better than the null" in result.verdict
    assert "not degrees" not in result.verdict, "a layer that tells nothing needs no remark about degrees"
    assert result.verdict.endswith("Serve it at layer 2.")


def test_the_verdict_has_no_objection_to_a_served_layer_that_is_as_good() -> None:
    result = verified({1: 1.4, 2: 1.5}, served=1)
    assert result.verdict.startswith("Good: at layer 2, its best,")
    assert "At layer 1, which is served unless another is chosen" in result.verdict
    assert result.verdict.endswith("nothing speaks against it.")


def test_the_verdict_names_a_vector_that_does_not_tell_degrees() -> None:
    assert "not degrees of the trait" in verified({2: 1.5}, spread=0.0).verdict
    assert "not degrees of the trait" not in verified({2: 1.5}, spread=1.0).verdict


def test_the_verdict_names_a_vector_of_vocabulary() -> None:
    assert "vocabulary" in verified({0: 1.6, 2: 1.5}).verdict
    assert "vocabulary" not in verified({0: 0.2, 2: 1.5}).verdict


def test_without_evidence_the_verdict_compares_with_chance_and_names_the_lack() -> None:
    good, chance = verified({2: 1.5}, null=False), verified({}, null=False, seed=1)
    assert good.better_than_null
    assert good.layers[2].null_norm is good.layers[2].null_auc is good.layers[2].split_half_cosine is None
    assert "were not at hand" in good.verdict
    assert not chance.better_than_null
    assert "that answers that do not differ reach by chance" in chance.verdict


# --- what cannot be verified


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def arguments(**replaced: Any) -> dict[str, Any]:
    """Return the arguments of `verify` for 4 rows of width 6, with 5 positive and 7 negative answers."""
    values: dict[str, Any] = {
        "vector": noise(4, 6),
        "evidence": Evidence(None, noise(3, 4, 6)),
        "pos": AnswerProjections(noise(4, 5)),
        "neg": AnswerProjections(noise(4, 7)),
    }
    return values | replaced


def test_unscored_answers_and_missing_halves_leave_blanks() -> None:
    result = verify(**arguments(pos=AnswerProjections(noise(4, 5), scores=[None] * 5)))
    for row in result.layers:
        assert row.correlation is row.correlation_pos is row.correlation_neg is None
        assert row.split_half_cosine is row.auc_prompt_last is row.null_auc is None
        assert row.null_norm is not None


def test_a_zero_layer_has_the_auc_of_chance_and_no_cosine() -> None:
    vector, pos, neg = noise(4, 6), noise(4, 5), noise(4, 7)
    vector[1] = pos[1] = neg[1] = 0
    evidence = Evidence(np.stack([vector, vector]), noise(3, 4, 6))
    row = verify(vector, evidence, AnswerProjections(pos), AnswerProjections(neg)).layers[1]
    assert (row.auc, row.norm, row.split_half_cosine) == (0.5, 0.0, None)


@pytest.mark.parametrize(
    ("argument", "field"),
    [("vector", None), ("pos", "response"), ("neg", "response"), ("neg", "prompt_last"), ("pos", "null")],
)
def test_values_that_are_not_finite_name_their_layers(argument: str, field: str | None) -> None:
    full = arguments(
        pos=AnswerProjections(noise(4, 5), noise(4, 5), noise(4, 3, 5)),
        neg=AnswerProjections(noise(4, 7), noise(4, 7), noise(4, 3, 7)),
    )
    array = full[argument] if field is None else getattr(full[argument], field)
    array[2, ..., 1] = np.nan
    array[3, ..., 0] = np.inf
    with pytest.raises(PipelineError, match=r"at layers \[2, 3\]"):
        verify(**full)


@pytest.mark.parametrize(
    "wrong",
    [
        {"pos": AnswerProjections(noise(3, 5))},
        {"neg": AnswerProjections(noise(4))},
        {"pos": AnswerProjections(noise(4, 5), prompt_last=noise(4, 6))},
        {"evidence": Evidence(None, noise(3, 4, 5))},
        {"evidence": Evidence(noise(1, 4, 6), noise(3, 4, 6))},
        {"pos": AnswerProjections(noise(4, 5), null=noise(4, 3, 6))},
        {
            "pos": AnswerProjections(noise(4, 5), null=noise(4, 3, 5)),
            "neg": AnswerProjections(noise(4, 7), null=noise(4, 2, 7)),
        },
        {"vector": noise(6)},
    ],
)
def test_shapes_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(PipelineError, match="have shape"):
        verify(**arguments(**wrong))


def test_scores_and_answers_must_match_and_both_polarities_be_there() -> None:
    with pytest.raises(PipelineError, match="5 positive answers"):
        verify(**arguments(pos=AnswerProjections(noise(4, 5), scores=[1.0] * 4)))
    with pytest.raises(PipelineError, match="both polarities"):
        verify(**arguments(neg=AnswerProjections(noise(4, 0))))
