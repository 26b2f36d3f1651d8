"""Shows where the API process spends its time: runs py-spy on it while 32 chats stream.

    python -m tests.benchmarks.serving.profile [--side 6] [--side plain]

py-spy samples without stopping the process. A process that is stopped 100 times a second beside a busy engine gets
slower, and its sleeping threads look as if they worked. py-spy needs the permission to trace: root, the ptrace
capability, or `kernel.yama.ptrace_scope=0`. A sample shows that a thread is ready to run, not that it has a core. So
the samples give the shares, and the kernel's count of CPU seconds gives the whole.
"""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from tests.benchmarks.serving.load import Load, load_generator
from tests.benchmarks.serving.plan import PLAIN, traits_side
from tests.benchmarks.serving.processes import Meter, summary
from tests.benchmarks.serving.sides import make_side
from tests.benchmarks.serving.stacks import OURS, read_stacks, shares
from tests.support.serving import measured_environment, serving
from traitwatch_builder.models.embedded import embedded_model

PY_SPY = Path(sys.executable).with_name("py-spy")
RATE = 100
FUNCTIONS = 12


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--side", "sides", multiple=True, default=("6",), metavar="TRAITS|plain", help="Again for more.")
@click.option("--mode", type=click.Choice(["eager", "compiled"]), default="eager")
@click.option("--streams", type=click.IntRange(min=1), default=32, help="Streams at once.")
@click.option("--prompts", type=click.IntRange(min=1), default=256, help="Requests in all.")
@click.option("--tokens", type=click.IntRange(min=2), default=64, help="Mean tokens of an answer.")
def main(sides: tuple[str, ...], mode: Any, streams: int, prompts: int, tokens: int) -> None:
    """Profile the API process, and print the shares of its CPU time."""
    console = Console(width=120)
    if not PY_SPY.exists():
        raise click.ClickException(f"{PY_SPY} is missing: `pip install py-spy` into this environment.")
    model = embedded_model()
    directory = Path(tempfile.mkdtemp(prefix="bench-profile-"))
    console.print(f"Stacks and logs: {directory}")
    load = Load(streams, prompts, 64, tokens)
    # Raise KeyboardInterrupt as Ctrl-C does, so that no server stays.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with load_generator(model, directory) as generator:
        for text in sides:
            side = make_side(PLAIN if text == "plain" else traits_side(int(text)), model, mode, directory)
            console.print(f"Starting {side.name} ...")
            with serving(side.command, directory / f"{text}.log", variables=measured_environment()) as server:
                side.check(server)
                generator.run(server.url, Load(streams, streams, 64, 16), 1)
                stacks = directory / f"{text}.stacks"
                meter = Meter(server.process.pid)
                profiler = start(server.process.pid, stacks)
                run = generator.run(server.url, load, 2)
                used = summary(meter.read(), run["output_tokens"])
                stop(profiler)
            console.print(_table(side.name, stacks.read_text(), run, used))


def start(pid: int, stacks: Path) -> subprocess.Popen[str]:
    """Start py-spy on a process. Return once it samples."""
    command = [str(PY_SPY), "record", "--pid", str(pid), "--format", "raw", "--output", str(stacks)]
    options = ["--rate", str(RATE), "--nonblocking", "--threads", "--function", "--duration", "unlimited"]
    profiler = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert profiler.stdout is not None
    output = ""
    for line in profiler.stdout:
        output += line
        if "Sampling process" in line:
            return profiler
    raise click.ClickException(f"py-spy could not trace process {pid}:\n{output}")


def stop(profiler: subprocess.Popen[str]) -> None:
    """End py-spy as Ctrl-C does. Then it writes its file."""
    profiler.send_signal(signal.SIGINT)
    output = profiler.communicate(timeout=60)[0]
    if profiler.returncode != 0:
        raise click.ClickException(f"py-spy ended with {profiler.returncode}:\n{output}")


def _table(name: str, stacks: str, run: dict[str, Any], used: dict[str, Any]) -> Table:
    """Return the owners of the API process's CPU time, with their shares."""
    owners, functions = shares(read_stacks(stacks))
    total = sum(share.samples for share in owners)
    duration, cpu = run["duration_s"], used["cpu_api_s"]
    table = Table(
        title=f"{name}: the API process over {duration:.0f} s at {run['output_tokens_per_s']:.0f} tokens/s\n"
        f"{total} samples; {cpu:.2f} s of CPU; {100 * (1 - cpu / duration):.0f} % of the time idle"
    )
    table.add_column("where")
    table.add_column("share of its CPU time", justify="right")
    table.add_column("CPU ms per 1000 tokens", justify="right")

    def add(where: str, samples: int) -> None:
        share = samples / total
        table.add_row(where, f"{100 * share:.1f} %", f"{1e6 * share * cpu / run['output_tokens']:.1f}")

    for share in owners:
        add(share.owner, share.samples)
        if share.owner == OURS:
            for function in functions[:FUNCTIONS]:
                add(f"    {function.where}", function.samples)
    if owners:
        table.add_section()
        add("all", total)
    return table


if __name__ == "__main__":
    main()
