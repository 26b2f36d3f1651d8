"""Runs `traitwatch` commands as processes of their own that share their imports, which take seconds in each otherwise.

`fork` starts a command. Its process is forked from a server process (`multiprocessing`'s fork server), which has
imported `MODULES` and done nothing else. Signals, exit status and both outputs are the process's own.
"""

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch

from traitwatch.cli import main

# What the commands spend their first seconds on.
MODULES = (
    "tests.support.forks",
    "traitwatch_builder.commands.build",
    "traitwatch_builder.report.plots",
    "traitwatch_server.launch.vllm_serve",
)


@dataclass(frozen=True)
class Fork:
    """A command that runs, or has run.

    Attributes:
        process: its process.
        output: the file that takes its standard output.
        error: the file that takes its standard error.
    """

    process: ForkServerProcess
    output: Path
    error: Path

    def wait(self, timeout: float) -> int | None:
        """Wait for its end; return its status, negative after a signal, or None where it still runs."""
        self.process.join(timeout)
        return self.process.exitcode


def prepare() -> None:
    """Begin to import `MODULES`, so that the first command need not wait for it."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(MODULES))
    forkserver.ensure_running()


def fork(arguments: Sequence[str], environment: Mapping[str, str], directory: Path, name: str = "command") -> Fork:
    """Start `traitwatch` with these arguments.

    Args:
        arguments: the subcommand, its options and its arguments.
        environment: its environment variables. Those that are read when a module is imported are this process's.
        directory: takes the files of its output.
        name: begins the names of these files.
    """
    prepare()
    output, error = directory / f"{name}.out", directory / f"{name}.err"
    process = multiprocessing.get_context("forkserver").Process(
        target=_run, args=(list(arguments), dict(environment), output, error)
    )
    process.start()
    return Fork(process, output, error)


def _run(arguments: list[str], environment: dict[str, str], output: Path, error: Path) -> None:
    for file, number in ((output, 1), (error, 2)):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    # torch has read it when it was imported.
    if "OMP_NUM_THREADS" in environment:
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sys.argv = ["traitwatch", *arguments]
    main()
