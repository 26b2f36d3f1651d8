"""Does the vector tell held-out positive answers from negative ones? The area under the ROC curve, per layer."""

from collections.abc import Sequence

import numpy as np

from builder.artifacts import LayerScore
from builder.errors import PipelineError


def auc(pos: Sequence[float], neg: Sequence[float]) -> float:
    """Return the probability that a positive value is above a negative one, ties counting half (Mann-Whitney U)."""
    if not pos or not neg:
        raise PipelineError("an AUC needs answers of both polarities.")
    p, n = np.asarray(pos, dtype=np.float64)[:, None], np.asarray(neg, dtype=np.float64)[None, :]
    return float((p > n).mean() + 0.5 * (p == n).mean())


def layer_scores(pos: Sequence[np.ndarray], neg: Sequence[np.ndarray]) -> list[LayerScore]:
    """Return the AUC of every layer.

    Args:
        pos: per positive answer, its mean projection at each layer: `[num_layers + 1]`.
        neg: the same of the negative answers.
    """
    layers = range(len(pos[0]))
    return [LayerScore(layer=i, auc=auc([float(p[i]) for p in pos], [float(n[i]) for n in neg])) for i in layers]


def best_layer(scores: Sequence[LayerScore]) -> tuple[int, str]:
    """Return the layer to read and why: the highest AUC, and of several the one in the middle of their longest run.

    The embedding output (layer 0) knows single words alone, and the last layer is shaped by the next token; neither
    is chosen.
    """
    inner = list(scores[1:-1])
    top = max(score.auc for score in inner)
    runs: list[list[int]] = []
    for score in inner:
        if score.auc < top:
            continue
        if runs and runs[-1][-1] == score.layer - 1:
            runs[-1].append(score.layer)
        else:
            runs.append([score.layer])
    longest = max(runs, key=len)
    layer = longest[len(longest) // 2]
    where = f"layers {longest[0]} to {longest[-1]}" if len(longest) > 1 else f"layer {layer}"
    return layer, f"highest held-out AUC ({top:.3f}) at {where}"
