"""The scale of scores: 0 to 100 in Traitwatch, perhaps another one in other judges and in other programs' files."""

from collections.abc import Iterable, Sequence

_SCALES = (1.0, 10.0)
_LEAST_SCORES = 5


def scale_of(scores: Iterable[float | None], least: int = _LEAST_SCORES) -> float | None:
    """Return the top of the scale (1 or 10) that scores seem to have instead of 0 to 100; None where they look right.

    Args:
        scores: the scores; None for an answer without a score. They should be those of the trait and of the coherence
            together: the trait scores of negative answers may all be low, but hardly the coherence of all answers.
        least: the number of scores from which on they tell a scale.
    """
    known: Sequence[float] = [score for score in scores if score is not None]
    if len(known) < least:
        return None
    highest = max(known)
    for scale in _SCALES:
        if 0 < highest <= scale:
            return scale
    return None
