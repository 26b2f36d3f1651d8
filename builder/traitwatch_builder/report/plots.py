"""The plots of a report: inline SVG that follows the page's colours, light or dark.

matplotlib draws in a handful of stand-in colours. `inline_svg` then replaces each by the CSS variable of its role, so
that one SVG serves both colour schemes. Text stays text, in the page's font. The same data give the same bytes.
"""

import html
import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from traitwatch.card import LayerVerification, SpikeThreshold, SteeringResult

# Stand-in colours and the CSS variables that replace them.
INK, MUTED, LINE, POS, NEG, SURFACE = "#1b1f24", "#59626d", "#dfe3e8", "#b4430a", "#0b62a8", "#fefefe"
_VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", POS: "pos", NEG: "neg", SURFACE: "surface"}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "traitwatch",
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "legend.frameon": False,
    "legend.borderaxespad": 0.2,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.2,
    "legend.fontsize": 11,
    "lines.linewidth": 2,
    "lines.markersize": 4,
}
_PLAIN = FuncFormatter(lambda value, _: f"{value:g}")
_styled = mpl.rc_context(STYLE)
_CONDITIONS = (("positive", POS, "o"), ("negative", NEG, "^"))


def inline_svg(figure: Figure, name: str, alt: str) -> str:
    """Return a figure as an `<svg>` element for an HTML page.

    Args:
        figure: the figure; its units are points, which become CSS pixels.
        name: a name that is unique on the page; every id in the SVG begins with it.
        alt: description of the plot, for readers who cannot see it.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    view = re.search(r'viewBox="([^"]+)"', svg)
    opening = f'<svg role="img" aria-label="{html.escape(alt)}" viewBox="{view[1] if view else ""}">'
    svg = opening + svg[svg.index(">") + 1 :]
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace('xlink:href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    svg = re.sub(r'\b(?:d|x|y|width|height|transform)="[^"]*"', _two_decimals, svg)
    return re.sub(r"\s*\n\s*", "\n", svg).strip()


@_styled
def score_histogram(name: str, aspect: str, pos: Sequence[float], neg: Sequence[float], threshold: float | None) -> str:
    """Plot the judge's scores of both conditions, 0 to 100.

    Args:
        name: name of the plot.
        aspect: the aspect that was scored: `trait` draws a threshold for each condition, `coherence` one for both.
        pos: scores of the answers under the positive condition.
        neg: scores of the answers under the negative condition.
        threshold: threshold of an effective pair; None draws none.
    """
    figure, axes = _figure(height=220)
    bins = np.linspace(0, 100, 26)
    for scores, (label, colour, _) in zip((pos, neg), _CONDITIONS, strict=True):
        counts, _ = np.histogram(scores, bins)
        axes.stairs(counts, bins, fill=True, color=colour, alpha=0.28)
        axes.stairs(counts, bins, color=colour, linewidth=1.6, label=label)
    lines = [] if threshold is None else [(threshold, INK)]
    if threshold not in (None, 50) and aspect == "trait":
        lines = [(threshold, POS), (100 - threshold, NEG)]
    for value, colour in lines:
        axes.axvline(value, color=colour, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set(xlabel=f"{aspect} score", ylabel="answers", xlim=(0, 100))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    _legend(axes)
    means = " and ".join(
        f"{np.mean(s):.0f} {label}" for s, (label, *_) in zip((pos, neg), _CONDITIONS, strict=True) if s
    )
    alt = f"Histogram of the {aspect} scores of {len(pos)} and {len(neg)} answers; mean {means or 'of none'}."
    return inline_svg(figure, name, alt)


@_styled
def auc_by_layer(layers: Sequence[LayerVerification], served: int, best: int | None) -> str:
    """Plot the held-out AUC of response and prompt-last projections by layer, over the band of the null."""
    figure, axes = _figure()
    x = [layer.layer for layer in layers]
    null = _floats([layer.null_auc for layer in layers])
    if np.isfinite(null).any():
        axes.fill_between(x, 1 - null, null, color=MUTED, alpha=0.2, linewidth=0, label="null, 95 %")
    prompt = _floats([layer.auc_prompt_last for layer in layers])
    response = _floats([layer.auc for layer in layers])
    axes.plot(x, response, color=POS, label="response")
    if np.isfinite(prompt).any():
        axes.plot(x, prompt, color=NEG, linestyle=(0, (5, 2)), linewidth=1.6, label="prompt-last")
    lowest = np.nanmin(np.concatenate([response, prompt, 1 - null, [0.45]]))
    axes.set(ylabel="AUC", ylim=(max(0.0, lowest - 0.03), 1.02))
    _mark_layers(axes, x, response, served, best)
    _legend(axes)
    return inline_svg(figure, "auc", f"Held-out AUC by layer. {_by_layer('AUC', response, x, served)}")


@_styled
def norm_by_layer(norms: Sequence[float], layers: Sequence[LayerVerification], served: int) -> str:
    """Plot the length of the vector by layer, on a logarithmic axis, with the null's 95th percentile."""
    figure, axes = _figure()
    x = list(range(len(norms)))
    values = np.where(np.asarray(norms) > 0, norms, np.nan)
    axes.plot(x, values, color=POS, label="vector")
    null = _floats([layer.null_norm for layer in layers])
    null[~(null > 0)] = np.nan
    if np.isfinite(null).any():
        axes.plot([layer.layer for layer in layers], null, color=MUTED, linewidth=1.6, linestyle=(0, (1, 1.5)),
                  label="null, 95 %")  # fmt: skip
    axes.set(ylabel="length", yscale="log")
    axes.yaxis.set_major_formatter(_PLAIN)
    # Minor ticks are named where the axis spans about one power of ten or less.
    lengths = values[np.isfinite(values)]
    narrow = lengths.size > 0 and lengths.max() < 12 * lengths.min()
    axes.yaxis.set_minor_formatter(_PLAIN if narrow else NullFormatter())
    _mark_layers(axes, x, values, served, None)
    _legend(axes)
    return inline_svg(figure, "norm", f"Length of the vector by layer. {_by_layer('length', values, x, served)}")


@_styled
def split_half_by_layer(layers: Sequence[LayerVerification], served: int) -> str:
    """Plot the cosine between the vectors of two halves of the questions by layer."""
    figure, axes = _figure()
    x = [layer.layer for layer in layers]
    values = _floats([layer.split_half_cosine for layer in layers])
    axes.plot(x, values, color=POS)
    axes.set(ylabel="cosine", ylim=(min(0.0, float(np.nanmin([*values, 0.0])) - 0.05), 1.02))
    _mark_layers(axes, x, values, served, None)
    return inline_svg(figure, "split-half", f"Split-half cosine by layer. {_by_layer('cosine', values, x, served)}")


@_styled
def held_out_scatter(
    pos: tuple[Sequence[float], Sequence[float]], neg: tuple[Sequence[float], Sequence[float]], layer: int
) -> str:
    """Plot projection against judge score.

    Args:
        pos: scores (0 to 100) and mean projections (units of the hidden state) of the positive answers.
        neg: scores and mean projections of the negative answers.
        layer: layer index of the projections.
    """
    figure, axes = _figure()
    for (scores, projections), (label, colour, marker) in zip((pos, neg), _CONDITIONS, strict=True):
        axes.scatter(scores, projections, s=22, color=colour, alpha=0.55, linewidths=0, marker=marker, label=label,
                     clip_on=False)  # fmt: skip
    axes.set(xlabel="trait score by the judge", ylabel=f"mean projection, layer {layer}", xlim=(-2, 102))
    _legend(axes)
    alt = (
        f"Scatter of mean projection against judge score for {len(pos[0])} positive and {len(neg[0])} negative answers."
    )
    return inline_svg(figure, "scatter", alt)


@_styled
def neutral_histogram(edges: Sequence[float], counts: Sequence[int], thresholds: Sequence[SpikeThreshold]) -> str:
    """Plot the share of neutral tokens by z, on a logarithmic axis, with the thresholds and their intervals.

    Args:
        edges: edges of the bins, standard deviations of the baseline.
        counts: tokens in each bin, one fewer than edges.
        thresholds: thresholds of the smoothed z.
    """
    figure, axes = _figure(height=280)
    total = max(sum(counts), 1)
    share = 100 * np.asarray(counts, dtype=np.float64) / total
    floor = 100 * 0.5 / total
    axes.stairs(share, edges, baseline=floor, fill=True, color=MUTED, alpha=0.35, label="neutral tokens")
    z = np.linspace(edges[0], edges[-1], 200)
    width = float(np.mean(np.diff(edges)))
    normal = 100 * width * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    axes.plot(z, normal, color=MUTED, linewidth=1.2, linestyle=(0, (1, 1.5)), label="normal distribution")
    for threshold, colour in zip(thresholds, (NEG, POS, INK), strict=False):
        axes.axvspan(threshold.low, threshold.high, color=colour, alpha=0.15, linewidth=0)
        axes.axvline(threshold.z, color=colour, linewidth=1.6, label=f"spikes in {100 * threshold.rate:g} %")
    top = 2 * float(max(share.max(initial=0.0), normal.max()))
    reach = [*(t.high for t in thresholds), *(t.low for t in thresholds)]
    axes.set(xlabel="z (standard deviations of the baseline)", ylabel="% of tokens", yscale="log", ylim=(floor, top))
    axes.set_xlim(min(edges[0], *reach) if reach else edges[0], max(edges[-1], *reach) + 0.2 if reach else edges[-1])
    axes.yaxis.set_major_formatter(_PLAIN)
    _legend(axes, columns=2)
    alt = f"Histogram of the z of {total} neutral tokens" + "".join(
        f"; a spike in {100 * t.rate:g} % of answers at z {t.z:.2f}" for t in thresholds
    )
    return inline_svg(figure, "neutral", alt + ".")


@_styled
def steering_plot(name: str, aspect: str, results: Sequence[SteeringResult], floor: float | None = None) -> str:
    """Plot the judge's mean score by steering coefficient, one line a layer; all lines begin at the unsteered answers.

    Args:
        name: name of the plot.
        aspect: `trait` or `coherence`.
        results: mean scores by setting.
        floor: score below which a result does not count; None draws no line.
    """
    figure, axes = _figure()
    # No steering is the same at every layer, so a card has its result once, as coefficient 0.
    unsteered = [result for result in results if result.coefficient == 0][:1]
    steered = [result for result in results if result.coefficient != 0]
    layers = sorted({result.layer for result in steered})
    styles = [(colour, dash) for dash in ("-", (0, (4, 2)), (0, (1, 1.5))) for colour in (POS, NEG, INK, MUTED)]
    for i, layer in enumerate(layers):
        rows = sorted([*unsteered, *(r for r in steered if r.layer == layer)], key=lambda r: r.coefficient)
        scores = [row.trait_score if aspect == "trait" else row.coherence for row in rows]
        colour, dash = styles[i % len(styles)]
        axes.plot([row.coefficient for row in rows], scores, color=colour, linestyle=dash, marker="o", linewidth=1.7,
                  label=f"layer {layer}")  # fmt: skip
    if floor is not None:
        axes.axhline(floor, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set(xlabel="coefficient", ylabel=f"mean {aspect} score", ylim=(-3, 103))
    _legend(axes)
    return inline_svg(
        figure, name, f"Mean {aspect} score by steering coefficient, layers {', '.join(map(str, layers))}."
    )


def _figure(width: int = 440, height: int = 250) -> tuple[Figure, Axes]:
    """Return an empty figure of `width` by `height` CSS pixels with one pair of axes."""
    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    return figure, figure.add_subplot()


def _legend(axes: Axes, columns: int = 4) -> None:
    """Put the legend above the axes, where it covers no data."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=columns)


def _mark_layers(axes: Axes, x: Sequence[int], values: np.ndarray, served: int, best: int | None) -> None:
    """Mark the served layer by a line, and the best layer by a ring."""
    axes.axvline(served, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    left = served > 0.75 * max(x, default=0)
    axes.annotate(
        f"served: {served}", (served, 0), (-4 if left else 4, 5), xycoords=("data", "axes fraction"),
        textcoords="offset points", fontsize=10, ha="right" if left else "left",
    )  # fmt: skip
    if best is not None and best in x:
        axes.plot(best, values[list(x).index(best)], marker="o", markersize=8, markerfacecolor="none", color=INK,
                  markeredgewidth=1.4, linestyle="none", label=f"best: {best}")  # fmt: skip
    axes.set(xlabel="layer", xlim=(min(x, default=0), max(x, default=1)))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))


def _by_layer(what: str, values: np.ndarray, x: Sequence[int], served: int) -> str:
    known = [(value, layer) for value, layer in zip(values, x, strict=True) if np.isfinite(value)]
    if not known:
        return f"No {what} was measured."
    top, layer = max(known)
    here = next((f"{value:.3g} at the served layer {served}; " for value, at in known if at == served), "")
    return f"{here}highest {what} {top:.3g} at layer {layer}."


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _two_decimals(attribute: re.Match[str]) -> str:
    return re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), attribute[0])
