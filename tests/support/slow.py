"""A server that takes its time: `python -m tests.support.slow serve MODEL ...`.

Each forward pass sleeps first. What is done to a stream's trait is then done in the stream's midst, however busy the
machine; everything else is the real server.
"""

import time
from typing import Any

from traitwatch.cli import main
from traitwatch_server.launch import vllm_serve
from traitwatch_server.worker.worker import TraitWorker

SECONDS_PER_PASS = 0.02


class SlowWorker(TraitWorker):
    """The server's worker, slower."""

    def execute_model(self, scheduler_output: Any) -> Any:
        time.sleep(SECONDS_PER_PASS)
        return super().execute_model(scheduler_output)


if __name__ == "__main__":
    vllm_serve.WORKER_CLASS = "tests.support.slow.SlowWorker"
    main()
