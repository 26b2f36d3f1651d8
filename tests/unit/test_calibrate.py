"""The baseline of a vector, and the thresholds that a given share of neutral responses exceeds."""

import numpy as np
import pytest

from builder.calibrate import baseline, projections, scored_tokens
from builder.errors import PipelineError


def test_projections_are_on_unit_vectors_layer_by_layer() -> None:
    vector = np.array([[3.0, 4.0], [0.0, 2.0]], dtype=np.float32)
    states = np.array([[[5.0, 0.0]], [[7.0, 1.5]]], dtype=np.float32)
    assert projections(states, vector).tolist() == [[3.0], [1.5]]


def test_the_baseline_is_mean_and_standard_deviation_over_tokens() -> None:
    first, second = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[6.0], [3.0]])
    calibration = baseline([first.astype(np.float32), second.astype(np.float32)], num_prompts=2)
    assert calibration.num_tokens == 3
    assert calibration.layers[0].mean == pytest.approx(3.0)
    assert calibration.layers[0].std == pytest.approx(np.std([1, 2, 6], ddof=1))
    assert calibration.layers[1].mean == pytest.approx(1.0)


def test_no_answers_give_no_baseline() -> None:
    with pytest.raises(PipelineError, match="no answers"):
        baseline([], num_prompts=0)


def test_the_last_token_of_a_cut_answer_has_no_state() -> None:
    assert scored_tokens([1, 2, 3], finished=True) == [1, 2, 3]
    assert scored_tokens([1, 2, 3], finished=False) == [1, 2]
