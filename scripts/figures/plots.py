"""Draws the figures as SVG on a white card, so that they read alike on light and dark pages.

The colours are the colours of the reports: orange and blue. People with every common kind of colour vision can tell
them apart, and shapes differ too. `_svg` draws text as paths and salts the identifiers, so that the same data give the
same bytes everywhere.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from traitwatch.card import Card
from traitwatch.spikes import smooth
from traitwatch_builder.report.plots import INK, MUTED, NEG, POS, STYLE
from traitwatch_builder.vectors.verify import correlation

from .data import LAYER, SHOWN_TRAIT, Measured, ServedAnswer, TraitMeans
from .numbers import groups, threshold

_STYLE: Any = {**STYLE, "svg.fonttype": "path", "figure.facecolor": "white", "font.size": 10, "legend.fontsize": 10}
_GROUPS = {"neutral": (MUTED, "s"), "neg": (NEG, "^"), "pos": (POS, "o")}
_GROUP_NAMES = {"neutral": "neutral prompts", "neg": "negative condition", "pos": "positive condition"}
_DASHED = (0, (4, 3))
_LONG = re.compile(r"-?\d+\.\d{3,}")


def figures(measured: Measured, cards: Mapping[str, Card]) -> dict[str, str]:
    """Return every figure, SVG by file name."""
    with mpl.rc_context(_STYLE):
        return {
            "z-of-two-answers.svg": _svg(_z_of_two_answers(measured, cards[SHOWN_TRAIT])),
            "auc-by-layer.svg": _svg(_auc_by_layer(cards)),
            "response-means.svg": _svg(_response_means(measured, cards)),
            "within-and-across.svg": _svg(_within_and_across(measured)),
        }


def _z_of_two_answers(measured: Measured, card: Card) -> Figure:
    """Plot z and smoothed z along the demo's two answers, with the threshold and the spikes."""
    figure, axes = _panels(2, 1, width=760, height=420)
    spike = threshold(card)
    for at, (title, answer), colour in zip(axes, measured.served.items(), (POS, NEG), strict=True):
        z = _z(answer, card)
        at.axhline(0, color=MUTED, linewidth=0.8)
        at.axhline(spike, color=INK, linewidth=1.2, linestyle=_DASHED, label=f"threshold, {spike:.1f}")
        at.plot(z, color=colour, linewidth=0.8, alpha=0.6, marker="o", markersize=2.2, label="z of a token")
        at.plot(smooth(np.array(z)), color=colour, linewidth=2.2, label="smoothed z")
        for run in answer.spikes:
            at.axvspan(run.start - 0.5, run.end - 0.5, color=MUTED, alpha=0.2, linewidth=0, label="spike")
        at.set_title(f"{title}: mean z {answer.z:.2f}", fontsize=10, loc="left")
        at.set(xlim=(-1, max(len(a.projections) for a in measured.served.values())), ylabel="z (standard deviations)")
    axes[-1].set_xlabel("token of the answer")
    named: dict[str, Any] = {}
    for at in axes:
        for handle, label in zip(*at.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    figure.legend(named.values(), named.keys(), loc="outside upper left", ncols=len(named))
    return figure


def _auc_by_layer(cards: Mapping[str, Card]) -> Figure:
    """Plot the held-out AUC of every trait by layer over the band of vectors from shuffled labels."""
    figure, axes = _panels(2, 3, width=760, height=430)
    for at, (trait, card) in zip(axes, cards.items(), strict=True):
        rows = card.verification.layers if card.verification else []
        x = [row.layer for row in rows]
        null = np.array([np.nan if row.null_auc is None else row.null_auc for row in rows])
        at.fill_between(x, 1 - null, null, color=MUTED, alpha=0.25, linewidth=0, label="shuffled labels, 95 %")
        at.axhline(0.5, color=MUTED, linewidth=0.8)
        at.axvline(LAYER, color=INK, linewidth=1, linestyle=_DASHED, label=f"layer {LAYER}, served")
        prompt = np.array([np.nan if row.auc_prompt_last is None else row.auc_prompt_last for row in rows])
        at.plot(x, prompt, color=NEG, linewidth=1.5, linestyle=(0, (5, 2)), label="prompt's last token")
        at.plot(x, [row.auc for row in rows], color=POS, label="mean over the answer")  # type: ignore[arg-type]
        at.set_title(trait, fontsize=10, loc="left")
        at.set(xlim=(0, max(x)))
        at.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _label(axes, 3, "layer", "held-out AUC")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure


def _response_means(measured: Measured, cards: Mapping[str, Card]) -> Figure:
    """Plot z of the mean projection of every answer: neutral, negative, positive, trait by trait."""
    figure, axes = _panels(2, 3, width=760, height=430)
    jitter = np.random.default_rng(0)
    for at, trait in zip(axes, cards, strict=True):
        for place, (name, values) in enumerate(groups(measured.means[trait]).items()):
            colour, marker = _GROUPS[name]
            y = place + jitter.uniform(-0.28, 0.28, len(values))
            at.scatter(values, y, s=11, color=colour, alpha=0.4, linewidths=0, marker=marker, label=_GROUP_NAMES[name])
            at.plot([np.mean(values)] * 2, [place - 0.38, place + 0.38], color=INK, linewidth=2,
                    label="mean" if name == "pos" else None)  # fmt: skip
        at.set_title(trait, fontsize=10, loc="left")
        at.set(ylim=(-0.6, 2.6), yticks=[])
    _label(axes, 3, f"z of the answer's mean, layer {LAYER}", "")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure


def _within_and_across(measured: Measured) -> Figure:
    """Plot the judge's score against z, with Pearson's correlation across and within the conditions."""
    figure, axes = _panels(2, 3, width=760, height=460)
    for at, (trait, means) in zip(axes, measured.means.items(), strict=True):
        for name, side in (("neg", means.neg), ("pos", means.pos)):
            colour, marker = _GROUPS[name]
            scores = np.array(side.scores, dtype=np.float64)
            at.scatter(side.z, scores, s=16, color=colour, alpha=0.5, linewidths=0, marker=marker, clip_on=False,
                       label=_GROUP_NAMES[name])  # fmt: skip
        at.set_title(f"{trait}\n{_correlations(means)}", fontsize=10, loc="left")
        at.set(ylim=(-2, 102))
    _label(axes, 3, f"z of the answer's mean, layer {LAYER}", "judge's score")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


def _correlations(means: TraitMeans) -> str:
    sides = (means.neg, means.pos)
    across = correlation(np.concatenate([side.z for side in sides]), [score for side in sides for score in side.scores])
    within = (correlation(np.array(side.z), side.scores) for side in sides)
    return "r " + ", ".join(
        f"{name} {'-' if value is None else f'{value:z.2f}'}"
        for name, value in zip(("all", "neg.", "pos."), (across, *within), strict=True)
    )


def _z(answer: ServedAnswer, card: Card) -> list[float]:
    """Return z of each token that has a state: all but the last."""
    if card.calibration is None:
        raise RuntimeError(f"{card.trait}: the shipped card has no calibration")
    baseline = card.calibration.layers[LAYER]
    return [(value - baseline.mean) / baseline.std for value in answer.projections if value is not None]


def _panels(rows: int, columns: int, *, width: int, height: int) -> tuple[Figure, list[Axes]]:
    """Return a figure of `width` by `height` CSS pixels, its panels on common axes, row by row."""
    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=columns == 1, sharey=True, squeeze=False)
    return figure, list(panels.flat)


def _label(axes: Sequence[Axes], columns: int, below: str, beside: str) -> None:
    """Label the axes at the figure's lower and left edges."""
    for number, at in enumerate(axes):
        if number >= len(axes) - columns:
            at.set_xlabel(below)
        if number % columns == 0 and beside:
            at.set_ylabel(beside)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "traitwatch"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    # A hundredth of a point is precise enough. Editors would remove the spaces at the ends of lines.
    svg = re.sub(r' (?:d|x|y)="[^"]*"', lambda places: _LONG.sub(_hundredths, places[0]), buffer.getvalue())
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)


def _hundredths(number: re.Match[str]) -> str:
    return f"{float(number[0]):z.2f}"
