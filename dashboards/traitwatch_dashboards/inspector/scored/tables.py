"""The tables of the page and of its files. pandas holds the tables and writes HTML in which every cell is escaped."""

from collections.abc import Sequence

import pandas as pd

from traitwatch_dashboards.inspector.api.traits import Trait
from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText

_ABSENT = "-"
_DIFFERENCE = "difference"


def number(value: float | None, *, sign: bool = False) -> str:
    """Return a number as tables show it; a dash for None or NaN."""
    if value is None or value != value:
        return _ABSENT
    return f"{value:+.2f}" if sign else f"{value:.2f}"


def comparison(answers: Sequence[tuple[str, InspectedText]]) -> pd.DataFrame:
    """Compare the scores of one or two scored texts.

    Args:
        answers: title and scored text.

    Returns:
        A row for each trait that all texts have. Means and highest tokens are z or None. Two texts have a difference of
        their means; a single text has none.
    """
    if len({title for title, _ in answers}) < len(answers):
        # Both panes may have the same title, or none.
        answers = [(f"{title} {letter}".strip(), answer) for (title, answer), letter in zip(answers, "AB", strict=True)]
    names = [trait.name for trait in answers[0][1].traits]
    shared = [name for name in names if all(name in {t.name for t in answer.traits} for _, answer in answers)]
    rows = []
    for name in shared:
        summaries = [(title, answer.summary(_trait(answer, name))) for title, answer in answers]
        row: dict[str, object] = {"trait": name}
        row |= {f"mean z, {title}": summary.z for title, summary in summaries}
        if len(summaries) == 2:
            (_, a), (_, b) = summaries
            row[_DIFFERENCE] = None if a.z is None or b.z is None else a.z - b.z
        row |= {f"max z, {title}": summary.max_z for title, summary in summaries}
        row |= {f"spikes, {title}": len(summary.spikes) for title, summary in summaries}
        rows.append(row)
    return pd.DataFrame(rows)


def comparison_html(answers: Sequence[tuple[str, InspectedText]]) -> str:
    """Return the comparison as an HTML table."""
    table = comparison(answers)
    cells = table.copy().astype(object)
    for column in cells.columns[1:]:
        values = [
            number(v, sign=column == _DIFFERENCE) if isinstance(v, float) or v is None else str(v)
            for v in table[column]
        ]
        cells[column] = values
    return table_html(cells, "Scores of each trait")


def table_html(table: pd.DataFrame, caption: str) -> str:
    """Return a table as HTML that scrolls sideways where it is too wide; every cell is escaped."""
    if table.empty:
        return ""
    body = table.to_html(index=False, border=0, classes="tw-table", escape=True, na_rep=_ABSENT)
    body = body.replace("<th>", '<th scope="col">').replace(' style="text-align: right;"', "")
    label = f'<div class="tw-scroll" tabindex="0" role="region" aria-label="{caption}">'
    return f"{label}{body}</div>"


def cosines(traits: Sequence[Trait]) -> pd.DataFrame:
    """Return the cosines between the vectors of traits that are read at the same layer.

    Returns:
        A row and a column for each trait; NaN between traits of different layers.
    """
    names = [trait.name for trait in traits]
    table = pd.DataFrame(index=names, columns=names, dtype=float)
    for trait in traits:
        table.loc[trait.name, trait.name] = 1.0
        for other, cosine in trait.cosines.items():
            if other in names:
                table.loc[trait.name, other] = cosine
    return table


def _trait(answer: InspectedText, name: str) -> Trait:
    return next(trait for trait in answer.traits if trait.name == name)
