"""`traitwatch doctor`: checks on a user's own machine that scores are right and cheap, and prints a report."""

import os
import signal
import tempfile
from pathlib import Path

import click
from rich.console import Console

from traitwatch.files import write_atomically
from traitwatch_server.errors import ConfigError
from traitwatch_server.launch.versions import check_vllm


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})
@click.option(
    "--gpu/--cpu", "gpu", default=None, help="Insist on a GPU, or on vLLM's CPU build.  [default: what is here]"
)
@click.option("--rounds", type=click.IntRange(1), default=2, show_default=True, help="Starts of each server.")
@click.option("--loads", type=click.IntRange(1), default=3, show_default=True, help="Timed loads on each start.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the report to this file too.")
@click.argument("vllm_arguments", nargs=-1, type=click.UNPROCESSED, metavar="MODEL [VLLM OPTIONS]...")
def doctor(*, gpu: bool | None, rounds: int, loads: int, out: Path | None, vllm_arguments: tuple[str, ...]) -> None:
    """Check that each token of MODEL gets its own right score on this machine, and measure the cost.

    \b
        traitwatch doctor --gpu meta-llama/Llama-3.1-8B-Instruct --max-model-len 4096 --out report.md

    The report is Markdown for an issue; it holds no texts, paths or host names. The exit status is 0 only if every
    check was run and passed. The command starts Traitwatch's server and plain vLLM in turn, --rounds times each. The
    starts take most of the time.
    """
    if out is not None and not os.access(out.parent, os.W_OK):
        raise ConfigError(
            f"--out {out}: there is no folder {out.parent} that this user may write to; give another file."
        )
    check_vllm()
    from traitwatch_server.doctor.assess import assess
    from traitwatch_server.doctor.measure import make_plan, measure

    console = Console(stderr=True)
    # As Ctrl-C: the servers that run are ended on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="traitwatch-doctor-") as vectors:
        plan = make_plan(vllm_arguments, gpu, rounds, loads, Path(vectors))
        report = assess(plan, measure(plan, console), console)
    console.print(f"The servers' logs are in {plan.logs}", markup=False, soft_wrap=True)
    click.echo(report.markdown(), nl=False)
    if out is not None:
        write_atomically(out, report.markdown().encode())
    if not report.passed:
        raise SystemExit(1)
