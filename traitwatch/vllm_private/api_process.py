"""Reads in vLLM's API process what vLLM does not promise: engines, metrics, tokenizer, keys, the form of an error."""

import copy
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import vllm.envs as envs
from prometheus_client import CollectorRegistry
from vllm.config import ParallelConfig
from vllm.engine.protocol import EngineClient
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.middleware.authenticate import GUARDED_PREFIX
from vllm.exceptions import VLLMValidationError
from vllm.v1.metrics.prometheus import get_prometheus_registry

__all__ = [
    "GUARDED_PREFIX",
    "ErrorResponse",
    "RefusedError",
    "api_keys",
    "engine_indexes",
    "metrics_registry",
    "prompt_length",
    "tokenizer_of",
]


def api_keys(args: Namespace) -> list[str]:
    """Return the API keys of a server as vLLM takes them: those of --api-key, else that of VLLM_API_KEY; none if empty.

    Args:
        args: the parsed arguments of `serve`.
    """
    return [key for key in (args.api_key or [envs.VLLM_API_KEY]) if key]


def engine_indexes(parallel: ParallelConfig) -> list[str]:
    """Return the indexes of the engines that an API process talks to: all, or those of its node behind a balancer."""
    first = parallel.data_parallel_index
    local = parallel.local_engines_only
    count = parallel.data_parallel_size_local if local else parallel.data_parallel_size
    return [str(index) for index in range(first, first + count)]


def prompt_length(prompt: Any) -> int:
    """Return the places of a prompt as an endpoint gives it to the engine client: token ids, or embeddings."""
    if not isinstance(prompt, Mapping):
        return 0
    embeddings = prompt.get("prompt_embeds")
    return len(prompt.get("prompt_token_ids") or ()) or (0 if embeddings is None else int(embeddings.shape[-2]))


class RefusedError(VLLMValidationError):  # type: ignore[misc]
    """A request that the engine client refuses. An endpoint answers with status 400 in its own form.

    A stream of `/v1/responses` calls the engine client only after its start, so that it has no status any more.
    """


def tokenizer_of(engine: EngineClient) -> Any:
    """Return a copy of the tokenizer of an engine client: a tokenizer is not made for two threads."""
    return copy.deepcopy(engine.get_tokenizer())


def metrics_registry() -> CollectorRegistry:
    """Return the registry from which vLLM answers `GET /metrics`; it collects from all API processes."""
    registry: CollectorRegistry = get_prometheus_registry()
    return registry
