"""The tables of a run, from its record only."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.serving.plan import GOAL_CONCURRENCY, GOAL_TRAITS, MORE_TRAITS, PLAIN, scores, traits_side
from tests.benchmarks.serving.ratios import Goal, Ratio, ratio_of

Run = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """A measurement whose ratios are reported.

    Attributes:
        title: the head of the column.
        read: reads the value from a measurement.
    """

    title: str
    read: Callable[[dict[str, Any]], float]


THROUGHPUT = Metric("tokens/s", lambda run: run["output_tokens_per_s"])
ITL_P50 = Metric("between tokens p50", lambda run: run["itl_ms"]["p50"])
ITL_P99 = Metric("between tokens p99", lambda run: run["itl_ms"]["p99"])
METRICS = (
    THROUGHPUT,
    Metric("first token p50", lambda run: run["ttft_ms"]["p50"]),
    ITL_P50,
    ITL_P99,
    Metric("CPU API", lambda run: run["cpu_api_s"]),
    Metric("CPU engine", lambda run: run["cpu_engine_s"]),
    Metric("peak memory API", lambda run: run["peak_rss_api_mib"]),
    Metric("peak memory all", lambda run: run["peak_rss_mib"]),
)
# The goals of issue 4: side, base, metric, bound.
GOALS = (
    (traits_side(GOAL_TRAITS), PLAIN, THROUGHPUT, Goal(0.99, at_least=True)),
    (traits_side(GOAL_TRAITS), PLAIN, ITL_P50, Goal(1.01, at_least=False)),
    (traits_side(GOAL_TRAITS), PLAIN, ITL_P99, Goal(1.03, at_least=False)),
    (traits_side(MORE_TRAITS), traits_side(GOAL_TRAITS), THROUGHPUT, Goal(0.99, at_least=True)),
    (traits_side(MORE_TRAITS), traits_side(GOAL_TRAITS), ITL_P50, Goal(1.01, at_least=False)),
)


def ratios(runs: Sequence[Run], metric: Metric) -> list[float]:
    """Return side / base of each pair."""
    return [metric.read(run["measured"][run["side"]]) / metric.read(run["measured"][run["base"]]) for run in runs]


def groups(record: dict[str, Any]) -> Iterator[tuple[tuple[str, str, str, int], list[Run]]]:
    """Yield (mode, side, base, concurrency) with its pairs, in the order of the measurements."""
    found: dict[tuple[str, str, str, int], list[Run]] = {}
    for run in record["runs"]:
        found.setdefault((run["mode"], run["side"], run["base"], run["concurrency"]), []).append(run)
    yield from found.items()


def report(record: dict[str, Any], console: Console) -> None:
    """Print all tables and notes of a record."""
    grouped = dict(groups(record))
    for mode in dict.fromkeys(mode for mode, *_ in grouped):
        console.print(_figures(mode, grouped))
        console.print(_ratios(mode, grouped))
    if grouped:
        console.print(_goals(grouped))
    for line in notes(record):
        console.print(f"- {line}", soft_wrap=True, highlight=False, markup=False)


def _figures(mode: str, grouped: dict[tuple[str, str, str, int], list[Run]]) -> Table:
    """Return the medians behind the ratios, in their units."""
    table = Table(title=f"{mode}: medians")
    for title in ("side", "at once", "tokens/s", "first token ms", "p50 ms", "p99 ms", "CPU API s", "CPU engine s"):
        table.add_column(title, justify="left" if title == "side" else "right")
    table.add_column("peak MiB: API", justify="right")
    table.add_column("all", justify="right")
    for (own_mode, side, base, concurrency), runs in grouped.items():
        if own_mode == mode:
            for name in (base, side):
                cells = (ratio_of([metric.read(run["measured"][name]) for run in runs]).median for metric in METRICS)
                table.add_row(name, str(concurrency), *(f"{cell:.4g}" for cell in cells), end_section=name == side)
    return table


def _ratios(mode: str, grouped: dict[tuple[str, str, str, int], list[Run]]) -> Table:
    pairs = sorted({len(runs) for (own_mode, *_), runs in grouped.items() if own_mode == mode})
    table = Table(
        title=f"{mode}: ratios, median of {' or '.join(map(str, pairs))} pairs and its interval",
        show_lines=True,
    )
    table.add_column("side / base")
    table.add_column("at once", justify="right")
    for metric in METRICS:
        table.add_column(metric.title, justify="right")
    for (own_mode, side, base, concurrency), runs in grouped.items():
        if own_mode == mode:
            cells = (_cell(ratio_of(ratios(runs, metric))) for metric in METRICS)
            table.add_row(f"{side}\n/ {base}", str(concurrency), *cells)
    return table


def _cell(ratio: Ratio) -> str:
    return f"{ratio.median:.3f}\n{ratio.low:.3f}-{ratio.high:.3f}"


def _goals(grouped: dict[tuple[str, str, str, int], list[Run]]) -> Table:
    table = Table(title=f"Goals, {GOAL_CONCURRENCY} streams at once")
    for title in ("mode", "side / base", "ratio of", "goal", "median", "interval", "confidence", "verdict"):
        table.add_column(title)
    for mode in dict.fromkeys(mode for mode, *_ in grouped):
        for side, base, metric, goal in GOALS:
            runs = grouped.get((mode, side, base, GOAL_CONCURRENCY))
            name = f"{side} / {base}"
            if not runs:
                table.add_row(mode, name, metric.title, str(goal), "", "", "", "not measured")
                continue
            ratio = ratio_of(ratios(runs, metric))
            interval = f"{ratio.low:.3f}-{ratio.high:.3f}"
            confidence = f"{100 * ratio.coverage:.1f} %"
            verdict = goal.verdict(ratio)
            table.add_row(mode, name, metric.title, str(goal), f"{ratio.median:.3f}", interval, confidence, verdict)
    return table


def notes(record: dict[str, Any]) -> list[str]:
    """Return the notes that a reader of the tables needs."""
    lines = [
        "Each ratio is side / base of one pair: both servers started anew and up together, loaded in turn with the "
        "same requests; who starts first, and who is loaded first, alternates. The interval holds the true median with "
        "the confidence of the sign test (5 pairs 93.8 %, 6 pairs 96.9 %; smallest to largest ratio), whatever the "
        f"noise, that of one start to the next included. The ratio of {PLAIN} to itself, where measured, shows what "
        "this machine calls equal.",
        "A goal is met or not met where the whole interval lies on one side of it.",
        "vLLM's EngineCore and worker spin while they wait for each other, so CPU engine follows the duration of the "
        "load more than the work; CPU API is work. The load generator runs on the same cores and reads larger events "
        "from a server that scores; its CPU is in the file (client_cpu_s), and what it slows down counts against us.",
        "Peak memory is the highest resident memory of each process while loaded, summed; the file has each process, "
        "and its share of what it shares (pss_mib).",
    ]
    measured = [(run, name, run["measured"][name]) for run in record["runs"] for name in run["measured"]]
    if measured:
        busiest = max(one["other_server_cpu_s"] / one["duration_s"] for *_, one in measured)
        lines.append(f"The server that was not loaded took at most {100 * busiest:.1f} % of a core.")
        events = [one["events_per_token"] for *_, one in measured]
        lines.append(
            f"Events per token: {min(events):.3f} to {max(events):.3f}; alike means that streams are cut alike."
        )
    unscored = sum(run["prompts"] - one["scored"] for run, name, one in measured if scores(name))
    if unscored:
        lines.append(f"{unscored:.0f} answers were not scored in full: their price is not the price of scoring.")
    lines += [f"NOT MEASURED: {failure['what']}: {failure['why']}" for failure in record["failures"]]
    return lines
