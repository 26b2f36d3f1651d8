"""Effective pairs: the pairs of answers that make a vector, and what to do where there are few.

A pair is effective when the positive answer shows the trait, the negative one does not, and both are coherent; the
positive and the negative row at one index answer the same question (Persona Vectors, arXiv 2507.21509).
"""

from collections.abc import Sequence

from traitwatch_builder.errors import PipelineError
from traitwatch_builder.storage.answers import JudgedAnswer
from traitwatch_builder.storage.doubts import scale_doubt

# Vectors of fewer pairs do not reproduce well.
FEW_PAIRS = 50
# Why a pair is not effective, and what to try.
_CAUSES = {
    "empty": "are lost because an answer is empty: allow more --max-tokens, or look at the model's answers.",
    "unscored": "are lost because an answer has no score: have the answers judged, by another --judge if need be.",
    "incoherent": "are lost to coherence: lower --temperature, set --top-p 0.9, allow more --max-tokens, or lower "
    "--coherence.",
    "unshown": "are lost because the positive answers do not show the trait: use --elicit many-shot, write stronger "
    "positive instructions or examples, take more samples (--n-per-question), or lower --threshold.",
    "shown": "are lost because the negative answers show the trait too: write clearer negative instructions or "
    "examples, use --elicit many-shot, take more samples (--n-per-question), or lower --threshold.",
}


def effective_pairs(
    pos: Sequence[JudgedAnswer], neg: Sequence[JudgedAnswer], threshold: float = 50.0, coherence: float = 50.0
) -> list[int]:
    """Return the indices of the effective pairs.

    Args:
        pos: answers under the positive condition.
        neg: answers under the negative condition; index i is the same pair in both.
        threshold: least trait score of the positive answer; the negative one scores less than 100 minus this.
        coherence: least coherence of both answers. A missing score (the judge refused) drops the pair.

    Raises:
        PipelineError: no pair is effective; the message has the number of pairs that each filter let through.
    """
    effective = _effective(pos, neg, threshold, coherence)
    if not effective:
        raise PipelineError(
            f"no effective pair among {len(pos)}: {_measured(pos, neg, threshold, coherence)}. "
            f"{_what_to_try(pos, neg, threshold, coherence)} The answers files stay as they are."
        )
    return effective


def few_pairs_warning(
    pos: Sequence[JudgedAnswer], neg: Sequence[JudgedAnswer], effective: int, threshold: float, coherence: float
) -> str | None:
    """Return a warning about a vector of few effective pairs; None where there are enough.

    Args:
        pos: answers under the positive condition.
        neg: answers under the negative condition.
        effective: number of effective pairs.
        threshold: as in `effective_pairs`.
        coherence: as in `effective_pairs`.
    """
    if effective >= FEW_PAIRS:
        return None
    return (
        f"only {effective} of {len(pos)} pairs are effective, and vectors of fewer than {FEW_PAIRS} do not reproduce "
        f"well: {_measured(pos, neg, threshold, coherence)}. {_what_to_try(pos, neg, threshold, coherence)}"
    )


def _effective(
    pos: Sequence[JudgedAnswer], neg: Sequence[JudgedAnswer], threshold: float, coherence: float
) -> list[int]:
    if len(pos) != len(neg):
        raise PipelineError(f"{len(pos)} positive answers and {len(neg)} negative ones do not pair up.")
    pairs = zip(pos, neg, strict=True)
    return [i for i, (p, n) in enumerate(pairs) if not _faults(p, n, threshold, coherence)]


def _faults(pos: JudgedAnswer, neg: JudgedAnswer, threshold: float, coherence: float) -> set[str]:
    """Return the causes for which a pair is not effective, keys of `_CAUSES`."""
    faults = set()
    for answer in (pos, neg):
        if not answer.answer.strip():
            # An empty answer has no state to average, however low the least coherence is.
            faults.add("empty")
        if answer.coherence is not None and answer.coherence < coherence:
            faults.add("incoherent")
    if pos.trait is not None and pos.trait < threshold:
        faults.add("unshown")
    if neg.trait is not None and neg.trait >= 100.0 - threshold:
        faults.add("shown")
    if not faults and None in (pos.trait, neg.trait, pos.coherence, neg.coherence):
        faults.add("unscored")
    return faults


def _measured(pos: Sequence[JudgedAnswer], neg: Sequence[JudgedAnswer], threshold: float, coherence: float) -> str:
    shows = sum(p.trait is not None and p.trait >= threshold for p in pos)
    lacks = sum(n.trait is not None and n.trait < 100.0 - threshold for n in neg)
    coherent = sum(_coherent(p, coherence) and _coherent(n, coherence) for p, n in zip(pos, neg, strict=True))
    return (
        f"{shows} positive answers score {threshold:g} or more, {lacks} negative ones score below "
        f"{100.0 - threshold:g}, {coherent} pairs reach coherence {coherence:g}"
    )


def _coherent(answer: JudgedAnswer, least: float) -> bool:
    return bool(answer.answer.strip()) and answer.coherence is not None and answer.coherence >= least


def _what_to_try(pos: Sequence[JudgedAnswer], neg: Sequence[JudgedAnswer], threshold: float, coherence: float) -> str:
    """Return what to try, by the counts: more pairs where there are few in all, and against the commonest loss."""
    doubt = scale_doubt([*pos, *neg])
    if doubt:
        return f"{doubt[:1].upper()}{doubt[1:]}"
    advice = []
    if len(pos) < FEW_PAIRS:
        advice.append(
            f"There are only {len(pos)} pairs in all: make more answers (--n-per-question, or more questions)."
        )
    faults = [_faults(p, n, threshold, coherence) for p, n in zip(pos, neg, strict=True)]
    counts = {cause: sum(cause in found for found in faults) for cause in _CAUSES}
    commonest = max(counts, key=counts.__getitem__)
    if counts[commonest]:
        advice.append(f"{counts[commonest]} {_CAUSES[commonest]}")
    return " ".join(advice)
