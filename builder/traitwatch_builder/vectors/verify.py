"""Does a vector tell the trait? Statistics per layer, of answers that took no part in making it.

Nothing here reads a model: projections come in, numbers go out. A projection is `h . v / ||v||` of the mean state of an
answer, so that answers of all lengths count alike. What the numbers mean together is `traitwatch_builder.vectors.verdict`'s to say.
"""

import datetime
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from traitwatch.card import LayerVerification, Verification
from traitwatch.vectors import Float32Array, bad_layers
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.vectors.evidence import Evidence
from traitwatch_builder.vectors.verdict import conclude

Float64Array = npt.NDArray[np.float64]

NULL_QUANTILE = 0.95


def auc(pos: Sequence[float], neg: Sequence[float]) -> float:
    """Return the probability that a positive value is above a negative one, ties counting half.

    The area under the ROC curve, by the rank sum (Mann and Whitney 1947; Hanley and McNeil 1982, Radiology 143, 29-36).

    Raises:
        PipelineError: no value of a polarity.
    """
    return float(aucs(np.asarray(pos, dtype=np.float64)[:, None], np.asarray(neg, dtype=np.float64)[:, None])[0])


def aucs(pos: npt.NDArray[np.floating], neg: npt.NDArray[np.floating]) -> Float64Array:
    """Return the AUC of every column: `[..., columns]`.

    Args:
        pos: `[..., n_pos, columns]`, any float.
        neg: `[..., n_neg, columns]`.

    Raises:
        PipelineError: no value of a polarity.
    """
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    n, m = pos.shape[-2], neg.shape[-2]
    if not n or not m:
        raise PipelineError("an AUC needs answers of both polarities.")
    ranks = rankdata(np.concatenate([pos, neg], axis=-2), axis=-2)
    area: Float64Array = (ranks[..., :n, :].sum(axis=-2) - n * (n + 1) / 2) / (n * m)
    return area


def correlation(x: npt.NDArray[np.floating], scores: Sequence[float | None]) -> float | None:
    """Return Pearson's correlation of projections with the judge's scores.

    Args:
        x: `[n]`, projections.
        scores: of the same answers; None where the judge gave none, and the answer is passed over.

    Returns:
        The correlation; None where fewer than three answers have a score, or where scores or projections do not vary.
    """
    scored = [i for i, score in enumerate(scores) if score is not None]
    a, b = x[scored].astype(np.float64), np.array([scores[i] for i in scored], dtype=np.float64)
    if len(scored) < 3 or np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return None
    return float(np.clip(np.corrcoef(a, b)[0, 1], -1.0, 1.0))


def best_layer(layers: Sequence[LayerVerification]) -> tuple[int, str]:
    """Return the layer to read and why: the highest AUC, and of several the one in the middle of their longest run.

    The embedding output (layer 0) knows single words alone, and the last layer is shaped by the next token; neither
    is chosen, unless a model has no other.

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
    pos: Float32Array,
    neg: Float32Array,
    prompt_last_pos: Float32Array | None = None,
    prompt_last_neg: Float32Array | None = None,
    scores_pos: Sequence[float | None] | None = None,
    scores_neg: Sequence[float | None] | None = None,
    null_pos: Float32Array | None = None,
    null_neg: Float32Array | None = None,
    served_layer: int | None = None,
) -> Verification:
    """Return what a vector is worth, layer by layer, and the verdict.

    Args:
        vector: `[num_layers + 1, hidden_size]`, float32.
        evidence: of the extraction; None where it is not at hand (then null norms and split halves stay empty).
        pos: `[n_pos, num_layers + 1]`: the response projections of held-out positive answers.
        neg: `[n_neg, num_layers + 1]`: those of negative ones.
        prompt_last_pos: as `pos`, of the last prompt token under the prompt that elicited the answer; or None.
        prompt_last_neg: as `neg`, the same.
        scores_pos: the judge's trait score of each positive answer, None where it gave none; or None for no scores.
        scores_neg: the same of the negative answers.
        null_pos: `[num_null, n_pos, num_layers + 1]`: projections of the same answers on each vector from shuffled
            labels; or None.
        null_neg: `[num_null, n_neg, num_layers + 1]`, the same.
        served_layer: the layer index that will be served; by default that of `traitwatch_builder.vectors.verdict.served_layer`.

    Raises:
        PipelineError: an array of a wrong shape, NaN or infinity in one (with the layers), or no answer of a polarity.
    """
    layers = _check("vector", vector, (None, None)).shape[0]
    _check("positive projections", pos, (None, layers))
    _check("negative projections", neg, (None, layers))
    n, m = len(pos), len(neg)
    found: dict[str, Sequence[float | None]] = {"auc": aucs(pos, neg).tolist()}
    found["norm"] = _norms(vector).tolist()
    if prompt_last_pos is not None and prompt_last_neg is not None:
        at_prompt = (
            _check("positive prompt-last projections", prompt_last_pos, (None, layers)),
            _check("negative prompt-last projections", prompt_last_neg, (None, layers)),
        )
        found["auc_prompt_last"] = aucs(*at_prompt).tolist()
    if null_pos is not None and null_neg is not None:
        shuffled = aucs(
            _check("positive projections on the null", null_pos, (None, n, layers)),
            _check("negative projections on the null", null_neg, (len(null_pos), m, layers)),
        )
        found["null_auc"] = np.quantile(np.maximum(shuffled, 1 - shuffled), NULL_QUANTILE, axis=0).tolist()
    if evidence is not None:
        null = _check("vectors from shuffled labels", evidence.null, (None, *vector.shape))
        found["null_norm"] = np.quantile(_norms(null), NULL_QUANTILE, axis=0).tolist()
        if evidence.halves is not None:
            found["split_half_cosine"] = _cosines(_check("halves", evidence.halves, (2, *vector.shape)))
    scores = (_scores("positive", scores_pos, n), _scores("negative", scores_neg, m))
    both, everything = np.concatenate([pos, neg]), [*scores[0], *scores[1]]
    for name, values, given in (("", both, everything), ("_pos", pos, scores[0]), ("_neg", neg, scores[1])):
        found[f"correlation{name}"] = [correlation(values[:, i], given) for i in range(layers)]
    rows = [
        LayerVerification.model_validate({"layer": i, **{name: values[i] for name, values in found.items()}})
        for i in range(layers)
    ]
    better, verdict = conclude(rows, best_layer(rows)[0], n, m, served_layer)
    return Verification(
        layers=rows,
        num_pos=n,
        num_neg=m,
        better_than_null=better,
        verdict=verdict,
        date=datetime.datetime.now(tz=datetime.UTC).date(),
    )


def _norms(vectors: Float32Array) -> Float64Array:
    norms: Float64Array = np.linalg.norm(vectors.astype(np.float64), axis=-1)
    return norms


def _cosines(halves: Float32Array) -> list[float | None]:
    one, other = halves.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    products = (one * other).sum(axis=1)
    return [float(p / length) if length else None for p, length in zip(products, lengths, strict=True)]


def _scores(which: str, scores: Sequence[float | None] | None, answers: int) -> list[float | None]:
    if scores is None:
        return [None] * answers
    if len(scores) != answers:
        raise PipelineError(f"{answers} {which} answers have projections, but {len(scores)} have a score or a None.")
    return list(scores)


def _check(what: str, array: Float32Array, shape: tuple[int | None, ...]) -> Float32Array:
    """Return `array`; raise where its shape is not `shape` (None is any size) or it holds NaN or infinity."""
    fits = array.ndim == len(shape) and all(w in (None, g) for g, w in zip(array.shape, shape, strict=True))
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise PipelineError(f"the {what} have shape {list(array.shape)}, not [{wanted}]; read the answers again.")
    # The layer index of projections runs along the last axis, that of vectors along the one before it.
    if bad := bad_layers(array, axis=-1 if "projections" in what else -2):
        raise PipelineError(f"the {what} hold NaN or infinity at layers {bad}; read in float32 or bfloat16.")
    return array
