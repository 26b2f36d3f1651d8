"""The values of the labels `model_name` and `engine`, as vLLM's own metrics have them."""

from vllm.config import ParallelConfig, VllmConfig


def model_name(config: VllmConfig) -> str:
    """Return the served model's name."""
    return str(config.model_config.served_model_name)


def engine_indexes(parallel: ParallelConfig) -> list[str]:
    """Return the indexes of the engines that an API process talks to: all, or those of its node behind a balancer."""
    first = parallel.data_parallel_index
    local = parallel.local_engines_only
    count = parallel.data_parallel_size_local if local else parallel.data_parallel_size
    return [str(index) for index in range(first, first + count)]
