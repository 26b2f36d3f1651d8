"""A vLLM engine of our own in this process: its environment and its start.

On a GPU the engine has processes of its own. On a CPU it runs in this process: vLLM's processes wait for each other by
spinning, which takes cores from the arithmetic; on two cores half of the speed and most of the start-up time.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_MULTIPROCESSING = "VLLM_ENABLE_V1_MULTIPROCESSING"


def vllm_environment() -> None:
    """Set what an engine of ours needs in the environment, where the user has not."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


@contextmanager
def in_this_process_on_a_cpu(workers: int = 1) -> Iterator[None]:
    """On a CPU, have an engine that is made in a `with` block run in this process; see the module's docstring.

    Args:
        workers: of the engine; several have processes of their own anywhere.
    """
    from vllm.platforms import current_platform

    if workers > 1 or not current_platform.is_cpu() or _MULTIPROCESSING in os.environ:
        yield
        return
    os.environ[_MULTIPROCESSING] = "0"
    try:
        yield
    finally:
        # Servers that this process starts later must not inherit it.
        del os.environ[_MULTIPROCESSING]
