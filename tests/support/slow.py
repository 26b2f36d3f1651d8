"""A slow server: `python -m tests.support.slow serve MODEL ...`.

Each forward pass sleeps first. So a test can change a stream's trait in the middle of the stream, even on a busy
machine. Everything else is the real server.
"""

import time
from typing import Any

from traitwatch.cli import main
from traitwatch_server.launch import vllm_serve
from traitwatch_server.worker.worker import TraitWorker

SECONDS_PER_PASS = 0.02


class SlowWorker(TraitWorker):
    """The server's worker with a sleep before each pass."""

    def execute_model(self, scheduler_output: Any) -> Any:
        time.sleep(SECONDS_PER_PASS)
        return super().execute_model(scheduler_output)


if __name__ == "__main__":
    vllm_serve.WORKER_CLASS = "tests.support.slow.SlowWorker"
    main()
