"""Measurements rank the layers, and the reason of a choice names the objections to it."""

from collections.abc import Mapping

import pytest

from tests.support.steering import verification
from traitwatch.card import SteeringResult
from traitwatch_builder.steering.ranking import (
    Effect,
    candidates,
    choose,
    coherence_floor,
    rank_layers,
    reason,
    steering_effects,
)


def result(layer: int, coefficient: float, trait: float, coherence: float = 80.0) -> SteeringResult:
    return SteeringResult(layer=layer, coefficient=coefficient, trait_score=trait, coherence=coherence, num_answers=20)


UNSTEERED = result(0, 0.0, 30.0, 80.0)


# --- which layers are steered


def test_the_inner_layers_of_highest_auc_are_steered_and_the_served_one() -> None:
    aucs: dict[int, float | None] = {layer: 0.5 + layer / 100 for layer in range(31)}
    assert candidates(verification(aucs), 30) == [20, 24, 25, 26, 27, 28, 29]
    aucs[20] = 0.99
    assert candidates(verification(aucs), 30) == [20, 25, 26, 27, 28, 29]


def test_equal_aucs_go_by_nearness_to_the_middle() -> None:
    assert candidates(verification(dict.fromkeys(range(13), 1.0)), 12) == [3, 4, 5, 6, 7, 8]


def test_a_small_model_has_no_layer_20() -> None:
    assert candidates(verification({0: 1.0, 1: 0.6, 2: None, 3: 0.7, 4: 1.0}), 4) == [1, 3]
    assert candidates(verification({19: 0.6, 20: 1.0}), 20) == [19], "the last index is the state after the final norm"


# --- the effect of steering


def test_the_effect_is_the_highest_gain_among_coherent_coefficients() -> None:
    results = [
        UNSTEERED,
        result(5, 1, 40),
        result(5, 2, 55),
        result(5, 3, 90, 49.9),
        result(6, 1, 25),
        result(6, 2, 20),
    ]
    assert steering_effects(results, 50.0) == {5: Effect(25.0, 2.0), 6: Effect(-5.0, 1.0)}


def test_a_layer_without_a_coherent_coefficient_has_no_effect() -> None:
    assert steering_effects([UNSTEERED, result(5, 1, 90, 10), result(6, 1, 31, 50.0)], 50.0) == {6: Effect(1.0, 1.0)}


def test_the_floor_is_relative_where_the_unsteered_answers_are_below_it() -> None:
    assert coherence_floor([UNSTEERED], 50.0) == 50.0
    assert coherence_floor([result(0, 0, 30, 50.0)], 50.0) == 50.0
    assert coherence_floor([result(0, 0, 30, 40.0)], 50.0) == pytest.approx(32.0)


# --- ranking


def order(aucs: Mapping[int, float], gains: Mapping[int, float], num_layers: int = 10) -> list[int]:
    ranks = rank_layers(aucs, {layer: Effect(gain, 1.0) for layer, gain in gains.items()}, num_layers)
    assert [row.rank for row in ranks] == list(range(1, len(ranks) + 1))
    return [row.layer for row in ranks]


def test_the_mean_of_the_two_ranks_decides() -> None:
    # Ranks by AUC 1, 2, 3, 4; by effect 4, 1, 2, 3.
    assert order({1: 0.95, 2: 0.94, 3: 0.7, 4: 0.6}, {1: -3.0, 2: 30.0, 3: 20.0, 4: 10.0}) == [2, 1, 3, 4]


def test_equal_mean_ranks_go_by_auc_and_then_by_nearness_to_the_middle() -> None:
    assert order({3: 0.8, 7: 0.9}, {3: 20.0, 7: 10.0}) == [7, 3]
    assert order({2: 0.9, 6: 0.9, 9: 0.9}, {2: 5.0, 6: 5.0, 9: 5.0}) == [6, 2, 9]


def test_layers_with_only_one_measurement_come_last() -> None:
    assert order({1: 0.99, 4: 0.6, 6: 0.7, 8: 0.99}, {4: -5.0, 6: -9.0, 3: 90.0}) == [6, 4, 8, 1, 3]


def test_without_steering_the_auc_decides() -> None:
    assert order({1: 0.7, 2: 0.9, 5: 0.9, 8: 0.8}, {}) == [5, 2, 8, 1]


# --- the choice and its reason


def test_the_choice_keeps_the_evidence() -> None:
    results = [UNSTEERED, result(5, 1, 40), result(5, 2, 55), result(6, 1, 35), result(6, 2, 70, 20.0)]
    choice = choose(verification({0: 1.0, 4: 0.99, 5: 0.9, 6: 0.8, 10: 1.0}), results, 10, "likelihood")
    assert choice is not None
    rows = [(r.rank, r.layer, r.auc, r.steering_effect, r.coefficient) for r in choice.ranks]
    assert rows == [(1, 5, 0.9, 25.0, 2.0), (2, 6, 0.8, 5.0, 1.0), (3, 4, 0.99, None, None)]
    assert (choice.steering, choice.coherence_floor, choice.judge) == (results, 50.0, "likelihood")
    assert reason(choice) == (
        "best of 2 layers by the mean of the ranks of held-out AUC 0.900 and of steering effect +25.0 points at "
        "coefficient 2 (judge: likelihood)"
    )


def test_the_reason_names_the_objections_to_the_layer() -> None:
    aucs = verification({4: 0.9, 5: 0.6})
    down = choose(aucs, [UNSTEERED, result(5, 1, 20)], 10, "likelihood")
    salad = choose(aucs, [result(0, 0, 30, 40.0), result(5, 1, 90, 20)], 10, "likelihood")
    unmeasured = choose(aucs, [], 10)
    assert down is not None
    assert salad is not None
    assert unmeasured is not None
    assert reason(down).endswith("steering raised the trait score at no layer")
    assert reason(salad) == (
        "highest held-out AUC 0.900 of 2 inner layers; no steered answers kept a mean coherence of 32"
    )
    assert reason(unmeasured, better_than_null=False) == (
        "highest held-out AUC 0.900 of 2 inner layers; steering was not measured; the vector is no better than its null"
    )
    assert (unmeasured.coherence_floor, unmeasured.judge) == (None, "")


def test_where_nothing_was_measured_there_is_no_choice() -> None:
    assert choose(verification({0: 1.0, 5: None, 10: 1.0}), [], 10) is None
    assert choose(None, [], 10) is None
