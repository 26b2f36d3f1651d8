"""The spikes of a text that was scored as a prompt, where the server tells projections alone.

The rule is the server's: the exponentially weighted mean of z over `WINDOW` tokens, started at 0, stays above the
threshold for `MIN_TOKENS` tokens or more. A test compares the two.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from builder.smoothing import MIN_TOKENS, WINDOW


@dataclass(frozen=True)
class Span:
    """A spike.

    Attributes:
        start: index of its first token.
        end: index after its last token.
        peak_z: the highest z of a token in it (not smoothed).
    """

    start: int
    end: int
    peak_z: float


def smoothed(z: Iterable[float | None]) -> list[float | None]:
    """Return the smoothed z up to each token; None where a token has no z, which does not count."""
    level = 0.0
    found: list[float | None] = []
    for value in z:
        if value is not None:
            level += 2.0 / (WINDOW + 1) * (value - level)
        found.append(None if value is None else level)
    return found


def find_spans(z: Sequence[float | None], threshold: float) -> list[Span]:
    """Return the spikes of a text, in order; a token without z ends one."""
    found: list[Span] = []
    run: list[float] = []
    for i, (value, level) in enumerate(zip([*z, None], [*smoothed(z), None], strict=True)):
        if value is not None and level is not None and level > threshold:
            run.append(value)
            continue
        if len(run) >= MIN_TOKENS:
            found.append(Span(i - len(run), i, max(run)))
        run = []
    return found
