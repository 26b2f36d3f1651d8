"""The verdict of a verification: what its numbers mean together, in plain words.

The verdict begins with a level: `Good`, `Doubtful` or `No better than chance`. Then come the reasons for or against the
vector at its best layer, and after them those at the layer that servers read by default, where that is another layer.
"""

from collections.abc import Sequence

import numpy as np

from traitwatch.card import LayerVerification
from traitwatch.vectors import DEFAULT_LAYER

GOOD_AUC = 0.8
LOW_COSINE = 0.3
WEAK_CORRELATION = 0.3
AS_WELL = 0.02
"""Two AUCs whose difference is less than this are about equal."""


def served_layer(num_layers: int) -> int:
    """Return the layer index at which a vector is served: the default, or the last inner layer of smaller models."""
    return DEFAULT_LAYER if num_layers >= DEFAULT_LAYER else max(num_layers - 1, 0)


def chance_auc(num_pos: int, num_neg: int) -> float:
    """Return the 95th percentile of the AUC of answers that do not differ (normal approximation, Mann and Whitney)."""
    return float(0.5 + 1.645 * np.sqrt((num_pos + num_neg + 1) / (12 * num_pos * num_neg)))


def better_than_null(row: LayerVerification, num_pos: int, num_neg: int) -> bool:
    """Return whether a layer's vector tells the held-out answers apart, and is longer than a vector of chance.

    The AUC is compared with the AUC of answers that do not differ, the length with vectors from shuffled labels. The
    AUC of vectors from shuffled labels is no criterion: where the conditions differ in many directions, any combination
    of the same answers' states separates them to some degree.
    """
    tells = row.auc is not None and row.auc > chance_auc(num_pos, num_neg)
    return tells and (row.null_norm is None or row.norm > row.null_norm)


def conclude(
    rows: Sequence[LayerVerification], best: int, num_pos: int, num_neg: int, served: int | None = None
) -> tuple[bool, str]:
    """Return whether the vector is better than the null at its best layer, and the verdict.

    Args:
        rows: the verification of each layer index, in order, each with an AUC.
        best: the best layer.
        num_pos: number of held-out positive answers.
        num_neg: number of held-out negative answers.
        served: the layer that will be served; by default `served_layer` of the model.
    """
    served = served_layer(len(rows) - 1) if served is None else served
    better = better_than_null(rows[best], num_pos, num_neg)
    against = {layer: _against(rows[layer], num_pos, num_neg) for layer in dict.fromkeys((best, served))}
    level = "Good" if not any(against.values()) else "Doubtful"
    level = level if better else "No better than chance"
    sentences = [f"{level}: {_separation(rows[best])}."]
    for layer, faults in against.items():
        where = f"At layer {layer}"
        if layer != best:
            where += f", which is served unless another is chosen and has an AUC of {_auc(rows[layer])},"
        if remarks := faults or _limits(rows, layer):
            sentences.append(f"{where} {'; '.join(remarks)}.")
        elif layer != best:
            sentences.append(f"{where} nothing speaks against it.")
    if against[served] and not against[best]:
        sentences.append(f"Serve it at layer {best}.")
    if rows[best].null_norm is None or rows[best].null_auc is None:
        sentences.append("Vectors from shuffled labels were not at hand: extract again for the comparison with them.")
    return better, " ".join(sentences)


def _separation(row: LayerVerification) -> str:
    """Return how well the vector separates the conditions at its best layer."""
    text = f"at layer {row.layer}, its best, the vector puts a positive held-out answer above a negative one in "
    text += f"{100 * (row.auc or 0.0):.0f} % of pairs"
    if row.null_auc is not None:
        text += f"; vectors from shuffled labels reach {100 * row.null_auc:.0f} %"
        if row.null_norm is not None and row.norm > 0:
            text += f" at {100 * row.null_norm / row.norm:.0f} % of its length"
    return text


def _against(row: LayerVerification, num_pos: int, num_neg: int) -> list[str]:
    """Return the reasons against trusting the vector at a layer."""
    faults = []
    chance = chance_auc(num_pos, num_neg)
    tells = row.auc is not None and row.auc > chance
    if not tells:
        faults.append(
            f"it is no better than the null: its AUC of {_auc(row)} is not above the {chance:.2f} that answers that do "
            "not differ reach by chance"
        )
    if row.null_norm is not None and row.norm <= row.null_norm:
        faults.append(
            f"it is no longer than the null: its length of {row.norm:.3g} is within the {row.null_norm:.3g} of vectors "
            "from shuffled labels"
        )
    if row.split_half_cosine is not None and row.split_half_cosine < LOW_COSINE:
        faults.append(
            f"it does not reproduce: the vectors of two halves of the questions have a cosine of "
            f"{row.split_half_cosine:.2f}, as noise would; take more samples or elicit the trait more strongly"
        )
    if row.auc is not None and row.auc < GOOD_AUC and tells:
        faults.append(f"it does not tell the conditions apart well: its AUC of {_auc(row)} is below {GOOD_AUC:.1f}")
    return faults


def _limits(rows: Sequence[LayerVerification], layer: int) -> list[str]:
    """Return the limits of a vector without faults, which a reader of its scores should know."""
    limits, row = [], rows[layer]
    within = [r for r in (row.correlation_pos, row.correlation_neg) if r is not None]
    if within and max(within) < WEAK_CORRELATION:
        values = " and ".join(f"{r:.2f}" for r in within)
        limits.append(
            "it tells the conditions apart, but not degrees of the trait within one (correlation with the judge's "
            f"scores {values})"
        )
    if row.null_auc is not None and row.auc is not None and row.auc <= row.null_auc:
        limits.append(
            f"vectors from shuffled labels separate as well (AUC {row.null_auc:.2f}): the conditions differ in many "
            "directions, of which it is one"
        )
    words = rows[0].auc
    if layer != 0 and None not in (words, row.auc) and (words or 0.0) >= (row.auc or 0.0) - AS_WELL:
        limits.append(
            f"it may tell vocabulary only: the embedding output (layer 0) separates about as well (AUC {_auc(rows[0])})"
        )
    return limits


def _auc(row: LayerVerification) -> str:
    return "unknown" if row.auc is None else f"{row.auc:.2f}"
