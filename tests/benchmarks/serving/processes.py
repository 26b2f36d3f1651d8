"""Reads CPU seconds and memory of every process of a server from /proc, with psutil."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

_MIB = 2**20


@dataclass(frozen=True)
class Usage:
    """The CPU and the memory that a process used during a load.

    Attributes:
        role: `api`, or vLLM's own name of the process (`EngineCore`, `Worker`), or `helper`.
        pid: the process.
        cpu_s: CPU seconds, user and system.
        peak_rss_mib: the peak of resident memory. Pages that other processes share count in full.
        pss_mib: resident memory after the load. Each shared page is divided by the number of its users.
    """

    role: str
    pid: int
    cpu_s: float
    peak_rss_mib: float
    pss_mib: float


class Meter:
    """Measures a server's processes from its construction to `read`."""

    def __init__(self, pid: int):
        """Start measuring the process `pid` and its descendants."""
        self._root = pid
        self._before = {process.pid: _cpu_seconds(process) for process in _tree(pid)}
        for process in self._before:
            # "5" resets the kernel's high-water mark of resident memory to the present resident memory.
            Path(f"/proc/{process}/clear_refs").write_text("5")

    def read(self) -> list[Usage]:
        """Return the usage of each process that still runs."""
        return [
            Usage(
                role=role(process.cmdline()) if process.pid != self._root else "api",
                pid=process.pid,
                cpu_s=_cpu_seconds(process) - self._before.get(process.pid, 0.0),
                peak_rss_mib=_peak_rss(process.pid),
                pss_mib=process.memory_full_info().pss / _MIB,
            )
            for process in _tree(self._root)
        ]


def summary(usages: Sequence[Usage], tokens: int) -> dict[str, Any]:
    """Return sums over a server's processes, and the usage of each process.

    Args:
        usages: the processes.
        tokens: the number of generated tokens. The result also has the CPU seconds per 1000 tokens.
    """
    api = sum(usage.cpu_s for usage in usages if usage.role == "api")
    total = sum(usage.cpu_s for usage in usages)
    return {
        "cpu_s": total,
        "cpu_api_s": api,
        "cpu_engine_s": total - api,
        "cpu_s_per_1000_tokens": 1000 * total / tokens,
        "peak_rss_mib": sum(usage.peak_rss_mib for usage in usages),
        "peak_rss_api_mib": sum(usage.peak_rss_mib for usage in usages if usage.role == "api"),
        "pss_mib": sum(usage.pss_mib for usage in usages),
        "processes": [asdict(usage) for usage in usages],
    }


def role(command: Sequence[str]) -> str:
    """Return vLLM's name of one of its child processes, from the title of the process."""
    title = command[0] if command else ""
    name = title.partition("VLLM::")[2]
    return name.split("_")[0].split()[0] if name else "helper"


def _tree(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _peak_rss(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} tells no VmHWM; this needs Linux.")
