"""Runs `traitwatch` commands in processes of their own that share their imports. The imports alone take seconds.

`fork` starts a command. Its process is forked from a server process (the fork server of `multiprocessing`), which has
imported `MODULES` and nothing else. Signals, the exit status and both outputs belong to the new process alone.
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

# The imports in which the commands spend their first seconds.
MODULES = (
    "tests.support.forks",
    "traitwatch_builder.commands.build",
    "traitwatch_builder.report.plots",
    "traitwatch_server.launch.vllm_serve",
)


@dataclass(frozen=True)
class Fork:
    """A command that runs or has ended.

    Attributes:
        process: the process of the command.
        output: the file with the standard output.
        error: the file with the standard error.
    """

    process: ForkServerProcess
    output: Path
    error: Path

    def wait(self, timeout: float) -> int | None:
        """Wait for the end of the command. Return its status: negative after a signal, None if it still runs."""
        self.process.join(timeout)
        return self.process.exitcode


def prepare() -> None:
    """Start to import `MODULES`, so that the first command does not wait for the imports."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(MODULES))
    forkserver.ensure_running()


def fork(arguments: Sequence[str], environment: Mapping[str, str], directory: Path, name: str = "command") -> Fork:
    """Start `traitwatch` with these arguments.

    Args:
        arguments: the subcommand, its options and its arguments.
        environment: the environment variables. A module reads some variables at its import: these are the variables of
            this process.
        directory: the directory for the files of both outputs.
        name: the beginning of the names of these files.
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
    # torch read this variable at its import.
    if "OMP_NUM_THREADS" in environment:
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sys.argv = ["traitwatch", *arguments]
    main()
