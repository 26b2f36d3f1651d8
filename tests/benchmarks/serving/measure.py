"""Measures one load on one server, while another server is up and should be idle."""

import time
from typing import Any

from tests.benchmarks.serving.load import Load, LoadGenerator, load_average
from tests.benchmarks.serving.processes import Meter, summary
from tests.benchmarks.serving.sides import answers
from tests.support.serving import Server

# After their last pass, vLLM's workers spin for a second (SpinCondition in shm_broadcast.py).
_QUIET_TIMEOUT_S = 15.0
_QUIET_PROBE_S = 0.5
_QUIET_SHARE = 0.1


def measure(generator: LoadGenerator, server: Server, other: Server, load: Load, seed: int) -> dict[str, Any]:
    """Wait until both servers are quiet, put `load` on `server`, and return all measurements.

    For a server that scores, `scored` and `incomplete` count the answers. `other_server_cpu_s` shows whether the other
    server was idle.
    """
    wait_until_quiet(server.process.pid, other.process.pid)
    before = answers(server)
    started_load_average = load_average()
    meter, idle = Meter(server.process.pid), Meter(other.process.pid)
    run = generator.run(server.url, load, seed)
    run.update(summary(meter.read(), run["output_tokens"]))
    run["other_server_cpu_s"] = sum(usage.cpu_s for usage in idle.read())
    scored, incomplete = (now - then for now, then in zip(answers(server), before, strict=True))
    return {**run, "scored": scored, "incomplete": incomplete, "load_average_at_start": started_load_average}


def wait_until_quiet(*pids: int) -> None:
    """Return when the processes and their descendants use less than a tenth of a core, or after 15 seconds."""
    deadline = time.monotonic() + _QUIET_TIMEOUT_S
    while time.monotonic() < deadline:
        meters = [Meter(pid) for pid in pids]
        time.sleep(_QUIET_PROBE_S)
        if sum(usage.cpu_s for meter in meters for usage in meter.read()) < _QUIET_SHARE * _QUIET_PROBE_S:
            return
