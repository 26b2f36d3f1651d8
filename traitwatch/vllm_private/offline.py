"""An engine in this process (`vllm.LLM`): what vLLM does not promise of its configuration and its end."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput

_SHUTDOWN_SECONDS = 30.0


def engine_dtype(llm: Any) -> str:
    """Return the precision in which an engine computes, e.g. `bfloat16`.

    Args:
        llm: a `vllm.LLM`.
    """
    return str(llm.llm_engine.vllm_config.model_config.dtype).removeprefix("torch.")


def finished_outputs(llm: Any) -> "Iterator[RequestOutput]":
    """Run an engine until it has no request left; yield the output of each request when the request has finished.

    Args:
        llm: a `vllm.LLM` with requests in its queue.
    """
    engine = llm.llm_engine
    while engine.has_unfinished_requests():
        yield from (output for output in engine.step() if output.finished)


def end_engine(llm: Any) -> None:
    """End a vLLM engine, its processes or its part of this one, and free its memory.

    Args:
        llm: a `vllm.LLM` that the caller no longer refers to.
    """
    from vllm.distributed import cleanup_dist_env_and_memory

    llm.llm_engine.engine_core.shutdown(timeout=_SHUTDOWN_SECONDS)
    del llm
    cleanup_dist_env_and_memory()
