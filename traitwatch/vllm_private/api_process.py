"""Reads in vLLM's API process what vLLM does not promise: engines, metrics, tokenizer, the form of an error."""

import copy
from typing import Any

from prometheus_client import CollectorRegistry
from vllm.config import ParallelConfig
from vllm.engine.protocol import EngineClient
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.v1.metrics.prometheus import get_prometheus_registry

__all__ = ["ErrorResponse", "engine_indexes", "metrics_registry", "tokenizer_of"]


def engine_indexes(parallel: ParallelConfig) -> list[str]:
    """Return the indexes of the engines that an API process talks to: all, or those of its node behind a balancer."""
    first = parallel.data_parallel_index
    local = parallel.local_engines_only
    count = parallel.data_parallel_size_local if local else parallel.data_parallel_size
    return [str(index) for index in range(first, first + count)]


def tokenizer_of(engine: EngineClient) -> Any:
    """Return a copy of the tokenizer of an engine client: a tokenizer is not made for two threads."""
    return copy.deepcopy(engine.get_tokenizer())


def metrics_registry() -> CollectorRegistry:
    """Return the registry from which vLLM answers `GET /metrics`; it collects from all API processes."""
    registry: CollectorRegistry = get_prometheus_registry()
    return registry
