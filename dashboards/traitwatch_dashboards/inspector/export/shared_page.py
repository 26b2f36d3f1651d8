"""The HTML page to share: coloured texts, their lines, and a table. The page loads nothing and runs no script.

The reader chooses the trait that colours the tokens without a script: each token carries the colour of every trait, and
the style sheet uses the colour of the checked radio button.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from traitwatch.spikes import FULL_COLOUR_Z, levels
from traitwatch_dashboards.inspector.api.traits import Trait
from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText
from traitwatch_dashboards.inspector.scored.tables import number
from traitwatch_dashboards.inspector.scored.transcript import Transcript

_HIGH, _LOW = "238 138 76", "98 172 222"
# The colours and the styles of the lines of the panes.
_LINES = ("#b4430a", "#0b62a8")
_STYLES = ("-", "--")


@dataclass(frozen=True)
class _Token:
    """A token on the page: its text, its colours for all traits as CSS, and its tooltip."""

    text: str
    style: str
    title: str


def shared_page(panes: Sequence[Transcript], table: str) -> str:
    """Return the page.

    Args:
        panes: the panes of the page.
        table: the table of scores as HTML, with escaped cells.
    """
    traits = list({trait.name: trait for pane in panes for answer in pane.answers for trait in answer.traits})
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string((files(__package__) / "shared.html").read_text("utf-8"))
    return template.render(
        panes=panes,
        traits=traits,
        plots=[Markup(_plot(panes, name)) for name in traits],
        table=Markup(table),
        tokens=lambda answer: _tokens(answer, traits),
        full=f"{FULL_COLOUR_Z:g}",
        time=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _tokens(answer: InspectedText, traits: Sequence[str]) -> list[_Token]:
    known = {trait.name: trait for trait in answer.traits}
    return [_token(answer, i, text, [known.get(name) for name in traits]) for i, text in enumerate(answer.texts)]


def _token(answer: InspectedText, i: int, text: str, traits: Sequence[Trait | None]) -> _Token:
    styles = []
    scores = []
    for k, trait in enumerate(traits):
        row = answer.projections.get(trait.name, []) if trait is not None else []
        projection = row[i] if i < len(row) else None
        if trait is None or projection is None:
            continue
        z = trait.z(projection)
        scores.append(f"{trait.name}: projection {number(projection)}, z {number(z, sign=True)}")
        if z is not None:
            share = min(1.0, abs(z) / FULL_COLOUR_Z)
            styles.append(f"--t{k}:rgb({_HIGH if z > 0 else _LOW}/{share:.2f})")
    return _Token(text, ";".join(styles), "\n".join(scores) or "no score")


def _plot(panes: Sequence[Transcript], name: str) -> str:
    """Return the lines of the smoothed z of a trait, a line for each pane, as SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}):
        figure = Figure(figsize=(9.6, 2.7), layout="constrained")
        axes: Any = figure.subplots()
        for k, pane in enumerate(panes):
            values: list[float] = []
            for answer in pane.answers:
                trait = next((t for t in answer.traits if t.name == name), None)
                row = answer.projections.get(name, [])
                smoothed = levels([trait.z(p) for p in row]) if trait is not None else []
                values += [float("nan") if level is None else level for level in smoothed]
                if trait is not None and trait.threshold is not None:
                    axes.axhline(trait.threshold, color="#59626d", linewidth=0.8, linestyle="--")
            label = pane.title.replace("$", r"\$") or name
            axes.plot(
                range(1, len(values) + 1), values, _STYLES[k % 2], color=_LINES[k % 2], linewidth=1.6, label=label
            )
        axes.axhline(0, color="#59626d", linewidth=0.8)
        axes.set_xlabel("token")
        axes.set_ylabel(f"z of {name}, smoothed")
        axes.spines[["top", "right"]].set_visible(False)
        if len(panes) > 1:
            axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
    svg = written.getvalue()
    return svg[svg.index("<svg") :]
