"""The environment and the process of a vLLM engine that the builder starts.

On a GPU the engine runs in processes of its own. On a CPU the engine runs in the builder's process: `cpu_engine` gives
the reason. On two cores, processes of its own cost half of the speed and most of the start-up time.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from traitwatch.cpu_engine import MULTIPROCESSING, ONE_PROCESS
from traitwatch.processes import keep_to_installed_modules


def vllm_environment() -> None:
    """Set the environment variables for an engine of the builder. Values that the user has set stay."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    keep_to_installed_modules()


@contextmanager
def in_this_process_on_a_cpu(workers: int = 1) -> Iterator[None]:
    """On a CPU, make the engines of a `with` block run in this process.

    Variables that the user has set stay: the function changes nothing if `VLLM_ENABLE_V1_MULTIPROCESSING` is set.

    Args:
        workers: the number of workers of the engine. Several workers have processes of their own on any device.
    """
    from vllm.platforms import current_platform

    if workers > 1 or not current_platform.is_cpu() or MULTIPROCESSING in os.environ:
        yield
        return
    os.environ.update(ONE_PROCESS)
    try:
        yield
    finally:
        # Servers that this process starts later must not inherit the variable.
        del os.environ[MULTIPROCESSING]
