"""A scored text of the inspector, for its unit tests."""

from traitwatch_dashboards.inspector.api.traits import Trait
from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText

TRAIT = Trait("paternalism", 20, mean=-10.0, std=5.0, threshold=1.5)
# A trait whose vector has no calibration.
BARE = Trait("bare", 20)


def answered(*projections: float | None, texts: list[str] | None = None) -> InspectedText:
    """Return an answer that has ended. Both traits have these projections.

    Args:
        projections: the projection of each token.
        texts: the text of each token. Without it, the texts are "t0 ", "t1 ", ...
    """
    answer = InspectedText((TRAIT, BARE), finish="stop")
    row = list(projections)
    answer.add(texts or [f"t{i} " for i in range(len(row))], 0, {"paternalism": row, "bare": row})
    return answer
