"""Removes from `PROMETHEUS_MULTIPROC_DIR` the metrics of processes that have ended, before a server starts.

With this variable, prometheus_client keeps the metrics of each process in files of this directory, and every answer
sums up all files. Where the directory outlives the server, the next server would go on with the counts of the last one,
and show its vectors. The name of a file ends with a process id. A container gives the same ids again at every start, so
a file may bear the id of a process that has never written it.
"""

import logging
import os
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from traitwatch_server.errors import ConfigError

logger = logging.getLogger(__name__)

# prometheus_client still reads the second name.
_VARIABLES = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")
# Seconds by which the start of a process may seem later than its first file: the system counts both in its own way.
_CLOCK_ERROR = 1.0


def forget_ended_processes() -> None:
    """Remove the files of ended processes; create the directory where it is missing.

    This process must not have made any metric yet: a file with its own id is of an earlier process.

    Raises:
        ConfigError: the directory cannot be used.
    """
    variable = next((name for name in _VARIABLES if os.environ.get(name)), None)
    if variable is None:
        return
    directory = Path(os.environ[variable])
    removed = 0
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for file in directory.glob("*.db"):
            if not _is_of_a_running_process(file):
                file.unlink(missing_ok=True)
                removed += 1
    except OSError as error:
        raise ConfigError(
            f"{variable}={directory} cannot be used: {error.strerror}. Name a directory that this user may write to, "
            "or leave the variable out: vLLM makes a directory where it needs one."
        ) from None
    if removed:
        logger.warning("%s=%s had %d files of ended processes; they are removed.", variable, directory, removed)


def _is_of_a_running_process(file: Path) -> bool:
    number = file.stem.rpartition("_")[2]
    if not number.isdecimal():
        # Not a name of prometheus_client, or an application's own way to name its processes.
        return True
    if int(number) == os.getpid():
        return False
    try:
        return bool(psutil.Process(int(number)).create_time() - _CLOCK_ERROR <= file.stat().st_mtime)
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False
    except psutil.AccessDenied:
        return True
