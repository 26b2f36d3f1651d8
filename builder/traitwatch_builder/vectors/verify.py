"""Does a vector tell the trait? Statistics per layer, of answers that took no part in making the vector.

Nothing here reads a model: projections come in, numbers go out. A projection is taken of the mean state of an answer,
so that long and short answers count alike. `traitwatch_builder.vectors.verdict` concludes what the numbers mean
together.
"""

import datetime
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from traitwatch.card import LayerVerification, Verification
from traitwatch.vectors import Float32Array, Float64Array
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.vectors.evidence import Evidence
from traitwatch_builder.vectors.projections import AnswerProjections, check_array
from traitwatch_builder.vectors.verdict import conclude

NULL_QUANTILE = 0.95

# By the name of a field of `LayerVerification`: its value at each layer index.
_Columns = dict[str, Sequence[float | None]]


def auc(pos: Sequence[float], neg: Sequence[float]) -> float:
    """Return the probability that a positive value is above a negative one, ties counting half.

    The area under the ROC curve, by the rank sum (Mann and Whitney 1947; Hanley and McNeil 1982, Radiology 143, 29-36).

    Raises:
        PipelineError: no value of a polarity.
    """
    return float(aucs(np.asarray(pos, dtype=np.float64), np.asarray(neg, dtype=np.float64)))


def aucs(pos: npt.NDArray[np.floating], neg: npt.NDArray[np.floating]) -> Float64Array:
    """Return the AUC of every row.

    Args:
        pos: `[..., num_pos]`, any float: values of the positive answers.
        neg: `[..., num_neg]`: values of the negative answers.

    Returns:
        `[...]`, float64.

    Raises:
        PipelineError: no value of a polarity.
    """
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    n, m = pos.shape[-1], neg.shape[-1]
    if not n or not m:
        raise PipelineError("an AUC needs answers of both polarities.")
    ranks = rankdata(np.concatenate([pos, neg], axis=-1), axis=-1)
    area: Float64Array = (ranks[..., :n].sum(axis=-1) - n * (n + 1) / 2) / (n * m)
    return area


def correlation(x: npt.NDArray[np.floating], scores: Sequence[float | None]) -> float | None:
    """Return Pearson's correlation of projections with the judge's scores.

    Args:
        x: `[n]`, projections.
        scores: the scores of the same answers; an answer whose score is None is left out.

    Returns:
        The correlation; None where fewer than three answers have a score, or where scores or projections do not vary.
    """
    scored = [i for i, score in enumerate(scores) if score is not None]
    a, b = x[scored].astype(np.float64), np.array([scores[i] for i in scored], dtype=np.float64)
    if len(scored) < 3 or np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return None
    return float(np.clip(np.corrcoef(a, b)[0, 1], -1.0, 1.0))


def best_layer(layers: Sequence[LayerVerification]) -> tuple[int, str]:
    """Return the layer to read and why: the layer of highest AUC, or the middle of the longest run of such layers.

    The embedding output (layer 0) knows single words only, and the last layer is shaped by the next token. Neither is
    chosen, unless the model has no other layer.

    Raises:
        PipelineError: no layer has an AUC.
    """
    measured = [(row.layer, row.auc) for row in layers[1:-1] or layers[-1:] if row.auc is not None]
    if not measured:
        raise PipelineError("no layer has a held-out AUC; `traitwatch verify` measures it.")
    top = max(value for _, value in measured)
    runs: list[list[int]] = []
    for layer, value in measured:
        if value < top:
            continue
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    longest = max(runs, key=len)
    layer = longest[len(longest) // 2]
    where = f"layers {longest[0]} to {longest[-1]}" if len(longest) > 1 else f"layer {layer}"
    return layer, f"highest held-out AUC ({top:.3f}) at {where}"


def verify(
    vector: Float32Array,
    evidence: Evidence | None,
    pos: AnswerProjections,
    neg: AnswerProjections,
    served_layer: int | None = None,
) -> Verification:
    """Return what a vector is worth, layer by layer, and the verdict.

    Args:
        vector: `[num_layers + 1, hidden_size]`, float32.
        evidence: the evidence of the extraction; None where it is missing (then null norms and split halves stay
            empty).
        pos: the projections of held-out positive answers.
        neg: the projections of held-out negative answers. A statistic that needs `prompt_last` or `null` stays empty
            unless both conditions have it.
        served_layer: the layer index that will be served; by default that of
            `traitwatch_builder.vectors.verdict.served_layer`.

    Raises:
        PipelineError: an array of a wrong shape, NaN or infinity in one (with the layers), or no answer of a polarity.
    """
    check_array("rows of the vector", vector, (None, None), layer_axis=0)
    num_rows = len(vector)
    pos.check("pos", num_rows, None)
    neg.check("neg", num_rows, None if pos.null is None else pos.null.shape[1])
    columns = _separation(pos, neg) | _length(vector, evidence) | _correlations(pos, neg)
    rows = [
        LayerVerification.model_validate({"layer": layer, **{name: values[layer] for name, values in columns.items()}})
        for layer in range(num_rows)
    ]
    better, verdict = conclude(rows, best_layer(rows)[0], pos.num_answers, neg.num_answers, served_layer)
    return Verification(
        layers=rows,
        num_pos=pos.num_answers,
        num_neg=neg.num_answers,
        better_than_null=better,
        verdict=verdict,
        date=datetime.datetime.now(tz=datetime.UTC).date(),
    )


def _separation(pos: AnswerProjections, neg: AnswerProjections) -> _Columns:
    """Return how well the projections tell the conditions apart: `auc`, `auc_prompt_last`, `null_auc`."""
    columns: _Columns = {"auc": aucs(pos.response, neg.response).tolist()}
    if pos.prompt_last is not None and neg.prompt_last is not None:
        columns["auc_prompt_last"] = aucs(pos.prompt_last, neg.prompt_last).tolist()
    if pos.null is not None and neg.null is not None:
        shuffled = aucs(pos.null, neg.null)
        columns["null_auc"] = np.quantile(np.maximum(shuffled, 1 - shuffled), NULL_QUANTILE, axis=1).tolist()
    return columns


def _length(vector: Float32Array, evidence: Evidence | None) -> _Columns:
    """Return how long the vector is and whether it reproduces: `norm`, `null_norm`, `split_half_cosine`."""
    columns: _Columns = {"norm": _norms(vector).tolist()}
    if evidence is not None:
        check_array("vectors from shuffled labels", evidence.null, (None, *vector.shape), layer_axis=1)
        columns["null_norm"] = np.quantile(_norms(evidence.null), NULL_QUANTILE, axis=0).tolist()
        if evidence.halves is not None:
            check_array("halves", evidence.halves, (2, *vector.shape), layer_axis=1)
            columns["split_half_cosine"] = _cosines(evidence.halves)
    return columns


def _correlations(pos: AnswerProjections, neg: AnswerProjections) -> _Columns:
    """Return how far the projections follow the judge's scores: `correlation`, `correlation_pos`, `correlation_neg`."""
    both = np.concatenate([pos.response, neg.response], axis=1)
    pos_scores, neg_scores = pos.scores_or_none, neg.scores_or_none
    return {
        "correlation": [correlation(row, [*pos_scores, *neg_scores]) for row in both],
        "correlation_pos": [correlation(row, pos_scores) for row in pos.response],
        "correlation_neg": [correlation(row, neg_scores) for row in neg.response],
    }


def _norms(vectors: Float32Array) -> Float64Array:
    norms: Float64Array = np.linalg.norm(vectors.astype(np.float64), axis=-1)
    return norms


def _cosines(halves: Float32Array) -> list[float | None]:
    one, other = halves.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    products = (one * other).sum(axis=1)
    return [float(p / length) if length else None for p, length in zip(products, lengths, strict=True)]
