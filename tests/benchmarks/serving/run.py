"""Starts the servers two at a time, loads them in turn, and records the measurements."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from tests.benchmarks.serving.load import LoadError, LoadGenerator, load_generator
from tests.benchmarks.serving.measure import measure
from tests.benchmarks.serving.plan import Comparison, Mode, load_seconds, order, start_seconds, warm_up
from tests.benchmarks.serving.processes import Meter, summary
from tests.benchmarks.serving.record import Record
from tests.benchmarks.serving.report import ITL_P50, THROUGHPUT, ratios
from tests.benchmarks.serving.sides import SideError, make_side
from tests.support.serving import Server, measured_environment, serving

# Takes the estimated seconds of the work that is done, and the name of the work that begins.
Advance = Callable[[float, str], None]


class Benchmark:
    """A run in progress."""

    def __init__(self, model: Path, directory: Path, record: Record, pairs: int, *, console: Console, advance: Advance):
        """Prepare a run.

        Args:
            model: the directory of the model.
            directory: the directory for logs and vectors.
            record: the record of the measurements.
            pairs: how often both servers of a comparison start and get each load.
            console: shows the ratios of each pair.
            advance: shows the progress.
        """
        self._model = model
        self._directory = directory
        self._record = record
        self._pairs = pairs
        self._console = console
        self._advance = advance
        # Each pair has its own requests: vLLM would answer a repeated prompt from the prefix cache.
        self._seed = 0
        self._starts = 0

    def run(self, modes: Sequence[Mode], comparisons: Sequence[Comparison]) -> None:
        """Measure all comparisons in each mode. Every comparison has a pair before any comparison has the next pair.

        A comparison that fails is recorded. It is not tried again in this mode. The other comparisons go on.
        """
        with load_generator(self._model, self._directory) as generator:
            for mode in modes:
                failed: set[Comparison] = set()
                for pair in range(self._pairs):
                    for comparison in comparisons:
                        if comparison in failed:
                            continue
                        try:
                            self._pair(mode, comparison, pair, generator)
                        except (AssertionError, SideError, LoadError) as error:
                            failed.add(comparison)
                            self._failed(f"{mode}: {comparison.side} / {comparison.base}, pair {pair + 1}", error)

    def _pair(self, mode: Mode, comparison: Comparison, pair: int, generator: LoadGenerator) -> None:
        """Start both servers anew, and put each load on both of them.

        Two starts of the same server differ by some per cent for as long as they run. Pairs of the same two processes
        would all have this difference, and their interval would be too narrow.
        """
        first, second = order(comparison, pair)
        with self._serving(mode, first) as one, self._serving(mode, second) as two:
            servers = {first: one, second: two}
            # The first answers of a server and of the load generator are slower than all later answers.
            warm = warm_up(comparison.loads[-1])
            for name, other in (first, second), (second, first):
                self._advance(0, f"{mode}: warming {name} up")
                measure(generator, servers[name], servers[other], warm, self._next_seed())
                self._advance(load_seconds(warm), "")
            self._loads(mode, servers, comparison, pair, generator)

    def _loads(
        self, mode: Mode, servers: dict[str, Server], comparison: Comparison, pair: int, generator: LoadGenerator
    ) -> None:
        for number, load in enumerate(comparison.loads):
            first, second = order(comparison, pair, number)
            seed = self._next_seed()
            measured = {}
            for name, other in (first, second), (second, first):
                self._advance(0, f"{mode}: {name}, {load.concurrency} at once, pair {pair + 1}/{self._pairs}")
                measured[name] = measure(generator, servers[name], servers[other], load, seed)
                self._advance(load_seconds(load), "")
            run = {
                "mode": mode,
                "base": comparison.base,
                "side": comparison.side,
                "concurrency": load.concurrency,
                "prompts": load.prompts,
                "pair": pair,
                "first": first,
                "measured": measured,
            }
            self._record.add("runs", run)
            figures = ", ".join(f"{metric.title} {ratios([run], metric)[0]:.3f}" for metric in (THROUGHPUT, ITL_P50))
            self._console.print(
                f"{mode}: {comparison.side} / {comparison.base}, {load.concurrency} at once, pair {pair + 1}: {figures}"
            )

    @contextmanager
    def _serving(self, mode: Mode, name: str) -> Iterator[Server]:
        """Start a side, check that it does its work, and record its start."""
        side = make_side(name, self._model, mode, self._directory)
        self._starts += 1
        log = self._directory / f"{self._starts:03}-{mode}-{name.replace(' ', '-')}.log"
        self._advance(0, f"{mode}: starting {name}")
        started = time.monotonic()
        with serving(side.command, log, variables=measured_environment()) as server:
            side.check(server)
            usages = Meter(server.process.pid).read()
            entry = {
                "mode": mode,
                "side": name,
                "command": side.command,
                "seconds_to_start": time.monotonic() - started,
                "idle": summary(usages, 1),
            }
            self._record.add("servers", entry)
            self._advance(start_seconds(mode), "")
            yield server

    def _next_seed(self) -> int:
        self._seed += 1
        return self._seed

    def _failed(self, what: str, error: BaseException) -> None:
        self._record.add("failures", {"what": what, "why": str(error)})
        self._console.print(f"{what}: {error}", style="red", markup=False)
