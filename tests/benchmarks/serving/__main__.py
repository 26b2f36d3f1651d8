"""Runs the benchmark: `python -m tests.benchmarks.serving`. It takes hours alone on the machine; `--quick`, minutes."""

import json
import signal
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tests.benchmarks.serving.load import Load
from tests.benchmarks.serving.plan import CONTROL, HIDDEN_STATES, plan, run_seconds, traits_side
from tests.benchmarks.serving.record import Record
from tests.benchmarks.serving.report import report
from tests.benchmarks.serving.run import Benchmark
from traitwatch_builder.models.embedded import embedded_model

# At least 5 pairs give an interval. 6 pairs give a better interval, and each side goes first equally often.
FULL: dict[str, Any] = {
    "modes": ("eager", "compiled"),
    "sides": ("0", "1", "6", "64", "hidden-states", "control"),
    "loads": ("1x6", "8x24", "32x96"),
    "pairs": 6,
    "tokens": 64,
    "prompt_tokens": 64,
}
QUICK: dict[str, Any] = {
    **FULL,
    "modes": ("eager",),
    "sides": ("6",),
    "loads": ("32x64",),
    "pairs": 2,
    "tokens": 32,
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="A small run, of some three minutes that decides nothing.")
@click.option(
    "--mode", "modes", type=click.Choice(["eager", "compiled"]), multiple=True, help="Again for more.  [both]"
)
@click.option(
    "--side",
    "sides",
    metavar="TRAITS|hidden-states|control",
    multiple=True,
    help="What plain vLLM is compared with: a number of traits (0: the tap in place, nothing scored), whole hidden "
    "states sent to the API process, or plain vLLM again. Again for more.  [0, 1, 6, 64, hidden-states, control]",
)
@click.option(
    "--load",
    "loads",
    metavar="STREAMSxPROMPTS",
    multiple=True,
    help="Streams at once, and requests in all. Again for more.  [1x6, 8x24, 32x96]",
)
@click.option("--pairs", type=click.IntRange(min=1), help="Pairs for each ratio; each starts both servers anew.  [6]")
@click.option("--tokens", type=click.IntRange(min=2), help="Mean tokens of an answer.  [64]")
@click.option("--prompt-tokens", type=click.IntRange(min=4), help="Mean tokens of a prompt.  [64]")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("build/bench-serving.json"),
    show_default=True,
    help="Where results go, after every pair.",
)
@click.option("--show", type=click.Path(exists=True, path_type=Path), help="Print the tables of such a file and exit.")
def main(quick: bool, out: Path, show: Path | None, **given: Any) -> None:
    """Measure the cost of Traitwatch: plain vLLM's server and ours, in turn, under `vllm bench serve`."""
    console = Console(width=150)
    if show is not None:
        report(json.loads(show.read_text()), console)
        return
    options = {
        name: value if given[name] in (None, ()) else given[name] for name, value in (QUICK if quick else FULL).items()
    }
    loads = [_load(text, options["prompt_tokens"], options["tokens"]) for text in options["loads"]]
    comparisons = plan([_side(text) for text in options["sides"]], loads)
    seconds = run_seconds(options["modes"], comparisons, options["pairs"])
    directory = Path(tempfile.mkdtemp(prefix="bench-serving-"))
    out.parent.mkdir(parents=True, exist_ok=True)
    record = Record(out, {**options, "comparisons": [asdict(c) for c in comparisons], "seconds_estimated": seconds})
    console.print(f"About {_minutes(seconds)}. Results: {out}, after every pair; logs: {directory}. Ctrl-C keeps both.")
    status = 0
    columns = (
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=seconds)

        def advance(done: float, what: str) -> None:
            progress.update(task, advance=done, description=what or None)

        benchmark = Benchmark(embedded_model(), directory, record, options["pairs"], console=console, advance=advance)
        # Both signals end the servers. The servers have their own sessions, and would stay without this.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            benchmark.run(options["modes"], comparisons)
        except KeyboardInterrupt:
            console.print("Interrupted; this is what there is.")
            status = 130
    report(record.data, console)
    raise SystemExit(status or (1 if record.data["failures"] else 0))


def _load(text: str, prompt_tokens: int, tokens: int) -> Load:
    streams, _, prompts = text.partition("x")
    if not (streams.isdecimal() and prompts.isdecimal() and 0 < int(streams) <= int(prompts)):
        raise click.BadParameter(
            f"{text!r}: give STREAMSxPROMPTS, as in 32x96, with a prompt at least for each stream."
        )
    return Load(int(streams), int(prompts), prompt_tokens, tokens)


def _side(text: str) -> str:
    names = {"hidden-states": HIDDEN_STATES, "control": CONTROL}
    if text not in names and not text.isdecimal():
        raise click.BadParameter(f"{text!r}: give a number of traits, hidden-states or control.")
    return names.get(text) or traits_side(int(text))


def _minutes(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{max(1, minutes)} min"


if __name__ == "__main__":
    main()
