"""The verdicts of the doctor's checks on good and on bad measurements."""

from dataclasses import replace

import numpy as np
import pytest

from traitwatch.vectors import Float32Array
from traitwatch_server.doctor.chats import ScoredText
from traitwatch_server.doctor.checks import References, isolation, overhead, parity
from traitwatch_server.doctor.report import Verdict

LAYERS = [1, 20]

STATES = 60


def right_values(noise: float = 0.0) -> dict[int, dict[int, Float32Array]]:
    """Return the references of each layer and its neighbours. Neighbours are similar but not equal."""
    random = np.random.default_rng(3)
    values = {}
    for layer in LAYERS:
        own = random.normal(5, 10, STATES)
        near = {n: own + random.normal(0, 4, STATES) for n in (layer - 1, layer + 1)}
        rounding = np.random.default_rng(layer).normal(0, noise * 10, STATES)
        values[layer] = {n: v.astype(np.float32) for n, v in {**near, layer: own + rounding}.items()}
    return values


def chats(values: dict[int, Float32Array]) -> list[ScoredText]:
    """Return two chats with these projections of their states."""
    both = np.stack([values[layer] for layer in LAYERS])
    return [
        ScoredText([1, 2], [3] * 20, both[:, :20], complete=True),
        ScoredText([1, 2], [3] * (STATES - 20), both[:, 20:], complete=True),
    ]


def own_layer(values: dict[int, dict[int, Float32Array]]) -> dict[int, Float32Array]:
    return {layer: near[layer] for layer, near in values.items()}


EXACT = right_values()

FLOAT32 = References(EXACT, None, "float32")


def test_parity_passes_differences_of_rounding() -> None:
    check = parity(LAYERS, chats(own_layer(right_values(noise=0.02))), FLOAT32)
    assert check.verdict is Verdict.PASS
    assert "60 states of 2 chats" in check.why
    assert check.table is not None
    assert [row[0] for row in check.table.rows] == ["1", "20"]
    assert float(check.table.rows[0][2]) == pytest.approx(0.02, rel=0.3)


def test_parity_fails_the_neighbouring_layer() -> None:
    wrong = {**own_layer(EXACT), 20: EXACT[20][19]}
    assert parity(LAYERS, chats(wrong), FLOAT32).verdict is Verdict.FAIL


def test_parity_fails_a_neighbouring_layer_that_is_almost_equal() -> None:
    """In the middle of a deep model, one layer changes little. Then the bound of the error is smaller."""
    near = {n: EXACT[20][20] + 0.06 * (EXACT[20][n] - EXACT[20][20]) for n in (19, 21)}
    references = References({**EXACT, 20: {**EXACT[20], **near}}, None, "float32")
    rounding = np.random.default_rng(5).normal(0, 0.05, STATES).astype(np.float32)
    wrong = {**own_layer(EXACT), 20: near[19] + rounding}
    assert parity(LAYERS, chats(wrong), references).verdict is Verdict.FAIL
    assert parity(LAYERS, chats(own_layer(EXACT)), references).verdict is Verdict.PASS


def test_parity_fails_the_neighbouring_token() -> None:
    wrong = {layer: np.roll(values, -1) for layer, values in own_layer(EXACT).items()}
    assert parity(LAYERS, chats(wrong), FLOAT32).verdict is Verdict.FAIL


@pytest.mark.parametrize("broken", ["missing", "incomplete"])
def test_parity_fails_missing_states(broken: str) -> None:
    first, second = chats(own_layer(EXACT))
    if broken == "missing":
        second.projections[0, 3] = np.nan
    else:
        second = replace(second, complete=False)
    check = parity(LAYERS, [first, second], FLOAT32)
    assert check.verdict is Verdict.FAIL
    assert "missing" in check.why


def test_parity_allows_the_errors_that_transformers_has_in_the_served_precision() -> None:
    chatted = chats(own_layer(right_values(noise=0.14)))
    assert parity(LAYERS, chatted, FLOAT32).verdict is Verdict.FAIL
    references = References(EXACT, right_values(noise=0.12), "bfloat16")
    assert parity(LAYERS, chatted, references).verdict is Verdict.PASS


def test_parity_without_a_reference_is_not_run_with_the_reason() -> None:
    check = parity(LAYERS, chats(own_layer(EXACT)), References(None, None, "bfloat16", "no memory for it."))
    assert (check.verdict, check.why) == (Verdict.NOT_RUN, "no memory for it.")


def crowd() -> tuple[list[ScoredText], list[Float32Array]]:
    random = np.random.default_rng(4)
    alone = [random.normal(0, 10, (3, 8 + i)).astype(np.float32) for i in range(32)]
    noisy = [(values + random.normal(0, 0.3, values.shape)).astype(np.float32) for values in alone]
    return [ScoredText([1], [2] * v.shape[1], v, complete=True) for v in noisy], alone


def test_isolation_passes_chats_that_score_as_alone() -> None:
    check = isolation(*crowd(), left_open=0)
    assert check.verdict is Verdict.PASS
    assert check.table is not None
    assert float(dict(check.table.rows)["a state of another chat instead, median"]) > 1


def test_isolation_fails_one_state_of_another_chat() -> None:
    texts, alone = crowd()
    texts[5].projections[:, 4] = texts[9].projections[:, 4]
    check = isolation(texts, alone, left_open=0)
    assert check.verdict is Verdict.FAIL
    assert check.table is not None
    assert dict(check.table.rows)["chats with a state off by more than 0.5 spreads"] == "1"


def test_isolation_fails_a_missing_state() -> None:
    texts, alone = crowd()
    texts[5].projections[:, 4] = np.nan
    assert isolation(texts, alone, left_open=0).verdict is Verdict.FAIL


def test_isolation_fails_an_answer_marked_as_incomplete() -> None:
    texts, alone = crowd()
    texts[5] = replace(texts[5], complete=False)
    assert isolation(texts, alone, left_open=0).verdict is Verdict.FAIL


def test_isolation_fails_calls_that_stay_open() -> None:
    assert isolation(*crowd(), left_open=1).verdict is Verdict.FAIL


def test_overhead_that_is_certain_fails() -> None:
    plain = [100.0, 101.0, 99.0, 100.0]
    check = overhead([0.9 * speed for speed in plain], plain, 96)
    assert check.verdict is Verdict.FAIL
    assert "costs more than 3%" in check.why


def test_no_overhead_passes() -> None:
    check = overhead([100.0, 100.5, 99.5, 100.0], [100.0, 101.0, 99.0, 100.0], 96)
    assert check.verdict is Verdict.PASS
    assert "A cost above 3% is ruled out" in check.why


def test_overhead_in_noise_names_the_cost_that_cannot_be_excluded() -> None:
    check = overhead([80.0, 120.0, 90.0], [100.0, 100.0, 95.0], 96)
    assert check.verdict is Verdict.PASS
    assert "cannot be told from noise" in check.why


def test_one_pair_of_loads_is_no_measurement() -> None:
    assert overhead([100.0], [100.0], 96).verdict is Verdict.NOT_RUN
