"""What a vector is worth on held-out answers, and that it is said plainly where it is worth nothing."""

import numpy as np
import pytest

from builder.verify import auc, best_layer, layer_scores


def test_auc_counts_pairs_in_order_and_ties_half() -> None:
    assert auc([3, 4], [1, 2]) == 1.0
    assert auc([1, 2], [3, 4]) == 0.0
    assert auc([1, 2], [1, 2]) == 0.5
    assert auc([2], [1, 2, 3, 4]) == pytest.approx(0.375)


def test_the_best_layer_is_in_the_middle_of_the_best_run() -> None:
    aucs = [1.0, 0.7, 0.9, 0.6, 0.9, 0.9, 0.9, 1.0]
    scores = layer_scores([np.array(aucs)], [np.zeros(8)])
    for score, value in zip(scores, aucs, strict=True):
        score.auc = value
    layer, reason = best_layer(scores)
    assert layer == 5
    assert "layers 4 to 6" in reason
