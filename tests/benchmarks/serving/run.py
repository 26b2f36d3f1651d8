"""Starts the servers two at a time, loads them in turn, and records what comes of it."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

from rich.console import Console

from tests.benchmarks.serving.load import LoadError, LoadGenerator, load_generator
from tests.benchmarks.serving.measure import measure
from tests.benchmarks.serving.plan import Comparison, Mode, load_seconds, order, start_seconds
from tests.benchmarks.serving.processes import Meter, summary
from tests.benchmarks.serving.record import Record
from tests.benchmarks.serving.report import ITL_P50, THROUGHPUT, ratios
from tests.benchmarks.serving.sides import SideError, make_side
from tests.integration.serving import Server, serving

# Takes the estimated seconds of what is done, and what is being done now.
Advance = Callable[[float, str], None]


class Benchmark:
    """A run in progress.

    Args of the constructor:
        model: directory of the model.
        directory: where logs and vectors go.
        record: where measurements go.
        pairs: times that both servers of a comparison get each load.
        console: where each pair is told.
        advance: is told of progress.
    """

    def __init__(self, model: Path, directory: Path, record: Record, pairs: int, *, console: Console, advance: Advance):
        self._model = model
        self._directory = directory
        self._record = record
        self._pairs = pairs
        self._console = console
        self._advance = advance
        # Each pair has requests of its own: a prompt that came before would be answered from the prefix cache.
        self._seed = 0

    def run(self, modes: Sequence[Mode], comparisons: Sequence[Comparison]) -> None:
        """Measure all comparisons in each mode; what fails is recorded, and the rest goes on."""
        with load_generator(self._model, self._directory) as generator:
            for mode in modes:
                for base, group in groupby(comparisons, lambda comparison: comparison.base):
                    try:
                        with self._serving(mode, base) as server:
                            for comparison in group:
                                self._beside(mode, server, comparison, generator)
                    except (AssertionError, SideError) as error:
                        self._failed(f"{mode}: all against {base}", error)

    def _beside(self, mode: Mode, base: Server, comparison: Comparison, generator: LoadGenerator) -> None:
        """Start the side of a comparison beside its base, and measure."""
        try:
            with self._serving(mode, comparison.side) as side:
                servers = {comparison.base: base, comparison.side: side}
                # The first answers of a server, and of the load generator, are slower than all that follow.
                for name, other in (comparison.base, comparison.side), (comparison.side, comparison.base):
                    self._advance(0, f"{mode}: warming {name} up")
                    measure(generator, servers[name], servers[other], comparison.loads[-1], self._next_seed())
                    self._advance(load_seconds(comparison.loads[-1]), "")
                for pair in range(self._pairs):
                    self._pair(mode, servers, comparison, pair, generator)
        except (AssertionError, SideError, LoadError) as error:
            self._failed(f"{mode}: {comparison.side} / {comparison.base}", error)

    def _pair(
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
            told = ", ".join(f"{metric.title} {ratios([run], metric)[0]:.3f}" for metric in (THROUGHPUT, ITL_P50))
            self._console.print(
                f"{mode}: {comparison.side} / {comparison.base}, {load.concurrency} at once, pair {pair + 1}: {told}"
            )

    @contextmanager
    def _serving(self, mode: Mode, name: str) -> Iterator[Server]:
        """Start a side, make sure that it does its work, and note what it took to start."""
        side = make_side(name, self._model, mode, self._directory)
        log = self._directory / f"{mode}-{name.replace(' ', '-')}.log"
        self._advance(0, f"{mode}: starting {name}")
        started = time.monotonic()
        with serving(side.command, log) as server:
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
