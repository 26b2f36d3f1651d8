"""A server whose worker fails on command: `python -m tests.support.faults serve MODEL ...`.

The command is the content of the file in `TRAITWATCH_FAULT`: `stall` (the sender's thread stands still), `lag` (the
thread is some passes behind), `lose` (the rows of one pass are lost), `break` (reading the rows raises an error),
`restart` (a new sender replaces the sender, as when a worker starts anew), `slow` (each forward pass sleeps first, as
in `tests.support.slow`), or nothing. Everything else is the real server. But without a command, the server waits longer
for rows.
"""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.support.slow import SECONDS_PER_PASS
from traitwatch.cli import main
from traitwatch_server.launch import vllm_serve
from traitwatch_server.ledger.waiter import Waiter
from traitwatch_server.worker.sender import Rows, Sender
from traitwatch_server.worker.worker import TraitWorker

VARIABLE = "TRAITWATCH_FAULT"
# A command without a fault. Answers wait for rows as long as in a user's server, and no longer.
OVER = "over"
PATIENCE = 10.0
# The number of passes that a sender with `lag` is behind, and the largest number of seconds.
LAG, LONGEST_LAG = 8, 0.5


def fault() -> str:
    """Return the command."""
    with contextlib.suppress(FileNotFoundError):
        return Path(os.environ[VARIABLE]).read_text()
    return ""


class StallingSender(Sender):
    """A sender whose thread stands still, or stays behind, while the command is in the file."""

    def __init__(self, layers: Sequence[int], engine: int):
        self._passes: list[float] = []
        super().__init__(layers, engine)

    def send(self, rows: Rows) -> None:
        self._passes.append(rows.time)
        super().send(rows)

    def _send_rows(self, rows: Rows) -> None:
        while fault() == "stall":
            time.sleep(0.01)
        # No other pass comes after the last one. So the wait for further passes has a time limit.
        until = time.monotonic() + LONGEST_LAG
        while fault() == "lag" and sum(t > rows.time for t in self._passes) < LAG and time.monotonic() < until:
            time.sleep(0.002)
        super()._send_rows(rows)


class FaultyWorker(TraitWorker):
    """The server's worker, with faults."""

    def traitwatch_connect(self, api_process: str, endpoint: str) -> None:
        self._endpoint = (api_process, endpoint)
        self._sender = StallingSender(self._tap.layers, self.vllm_config.parallel_config.data_parallel_index)
        super().traitwatch_connect(api_process, endpoint)

    def execute_model(self, scheduler_output: Any) -> Any:
        if fault() == "slow":
            time.sleep(SECONDS_PER_PASS)
        return super().execute_model(scheduler_output)

    def _send(self, layout: Any) -> None:
        command = fault()
        if command == "break":
            raise RuntimeError("told to break")
        if command == "lose" and layout.num_computed.max() > 30:
            Path(os.environ[VARIABLE]).write_text(OVER)
            return
        if command == "restart":
            Path(os.environ[VARIABLE]).write_text("")
            self._sender.close()
            self.traitwatch_connect(*self._endpoint)
        super()._send(layout)


async def _patient(self: Waiter, condition: Callable[[], bool], timeout: float) -> int | None:
    """Wait for rows. Without a command wait longer, because the machine of the tests may be busy."""
    return await _until(self, condition, timeout if fault() else max(timeout, PATIENCE))


_until = Waiter._until

if __name__ == "__main__":
    Waiter._until = _patient  # type: ignore[method-assign]
    vllm_serve.WORKER_CLASS = "tests.support.faults.FaultyWorker"
    main()
