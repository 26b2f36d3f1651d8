"""Reads hidden states with vLLM, for models that are too large for one GPU.

Each node of the plan (`traitwatch_builder.reading.prefixes`) whose states are counted is one request; it generates the
one token that vLLM insists on. The worker (`traitwatch_builder.reading.vllm_worker`) sums the states as it computes
them. vLLM's prefix cache spares the beginnings that texts share. Where the cache spared states that are counted, the
worker reports them missing, and the text is read again without the cache.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from transformers import AutoConfig

from traitwatch.vectors import Float32Array
from traitwatch.vllm_private.offline import end_engine, engine_dtype
from traitwatch.vllm_private.version import installed_version
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.models.vllm_engine import in_this_process_on_a_cpu, vllm_environment
from traitwatch_builder.reading.prefixes import Collector, Node, Part, plan
from traitwatch_builder.reading.states import Advance, Reading, Span
from traitwatch_builder.reading.sums import CUTS, KEY

# Size of the buffer for the states of all layers of one pass, float32.
_BUFFER_BYTES = 1 << 30
_MIN_TOKENS, _MAX_TOKENS = 64, 8192
_MAX_TOKENS_CPU = 2048
# Size of the sums and last states that wait in the worker to be fetched.
_WAITING_BYTES = 256 << 20
_MAX_REQUESTS = 128
# A request costs next to nothing, but a text whose counted states were in the cache is read again. So a shared
# beginning becomes a node as soon as it fills a block of the cache.
_MIN_SHARED = 16

logger = logging.getLogger(__name__)


class VllmReader:
    """A vLLM engine that reads: a `StateReader`. Use it in a `with` block, or call `close`.

    Attributes:
        num_layers: decoder layers.
        hidden_size: width of the residual stream.
        description: the engine and its precision.
        reread: texts that were read twice because the prefix cache held states that count.
    """

    def __init__(
        self,
        model: Path | str,
        max_model_len: int,
        dtype: str = "auto",
        tensor_parallel_size: int = 1,
        pipeline_parallel_size: int = 1,
    ):
        """Start the engine.

        Args:
            model: the model's directory or hub name.
            max_model_len: tokens of the longest text, plus one.
            dtype: dtype of weights and states, as vLLM names it; `auto` is the model's own.
            tensor_parallel_size: GPUs over which each layer is split.
            pipeline_parallel_size: groups of GPUs over which the layers are split.

        Raises:
            PipelineError: vLLM does not start.
        """
        vllm_environment()
        text = AutoConfig.from_pretrained(model).get_text_config()
        self.num_layers = int(text.num_hidden_layers)
        self.hidden_size = int(text.hidden_size)
        self.reread = 0
        self._max_model_len = max_model_len
        try:
            with in_this_process_on_a_cpu(workers=tensor_parallel_size * pipeline_parallel_size):
                self._llm = self._start(model, dtype, tensor_parallel_size, pipeline_parallel_size)
        except (RuntimeError, ValueError) as error:
            raise PipelineError(
                f"vLLM does not start with {model}: {error} See its log above; --engine transformers does without vLLM."
            ) from error
        self.description = f"vllm {installed_version()}, {engine_dtype(self._llm)}"

    def _start(self, model: Path | str, dtype: str, tensor_parallel: int, pipeline_parallel: int) -> Any:
        from vllm import LLM
        from vllm.platforms import current_platform

        cpu = current_platform.is_cpu()
        fits = _BUFFER_BYTES // (4 * (self.num_layers + 1) * self.hidden_size)
        max_tokens = max(_MIN_TOKENS, min(fits, _MAX_TOKENS_CPU if cpu else _MAX_TOKENS))
        # The platform's default block is 128 tokens on a CPU: texts would share few whole blocks.
        options = {"block_size": 32} if cpu else {}
        return LLM(
            model=str(model),
            dtype=dtype,
            max_model_len=self._max_model_len,
            tensor_parallel_size=tensor_parallel,
            pipeline_parallel_size=pipeline_parallel,
            worker_cls="traitwatch_builder.reading.vllm_worker.SumsWorker",
            enforce_eager=True,
            enable_prefix_caching=True,
            enable_chunked_prefill=True,
            max_num_batched_tokens=max_tokens,
            max_num_seqs=min(_MAX_REQUESTS, max_tokens),
            **options,
        )

    def __enter__(self) -> "VllmReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the engine and free its memory."""
        if "_llm" in self.__dict__:
            end_engine(self.__dict__.pop("_llm"))

    def read(
        self, spans: Sequence[Span], advance: Advance, directions: Float32Array | None = None
    ) -> Iterator[tuple[int, Reading]]:
        """Read spans; see `traitwatch_builder.reading.states.StateReader.read`.

        Raises:
            PipelineError: a text is longer than the engine was started for.
        """
        longest = max((len(span.ids) for span in spans), default=0)
        if longest >= self._max_model_len:
            raise PipelineError(
                f"a text of {longest} tokens does not fit into max_model_len {self._max_model_len}, one token of which "
                "vLLM generates."
            )
        self._llm.collective_rpc(
            "traitwatch_project_on", args=(None if directions is None else directions.astype(np.float32).tobytes(),)
        )
        # An earlier call may have left states in the cache that are counted now: texts would be read twice.
        self._llm.reset_prefix_cache()
        nodes = plan(spans, _MIN_SHARED, _MIN_SHARED)
        collector = Collector(spans, nodes)
        state_bytes = 4 * (self.num_layers + 1) * self.hidden_size
        at_once = max(8, min(_MAX_REQUESTS, _WAITING_BYTES // (2 * state_bytes)))
        for first in range(0, len(nodes), at_once):
            chunk = range(first, min(first + at_once, len(nodes)))
            parts = self._parts(nodes, [number for number in chunk if nodes[number].cuts])
            for number in chunk:
                readings = collector.add(number, parts.pop(number, None))
                if readings:
                    advance(len(readings))
                yield from readings

    def _parts(self, nodes: Sequence[Node], numbers: Sequence[int]) -> dict[int, Part]:
        """Read nodes; a node whose counted states were in the prefix cache is read again without the cache."""
        parts = self._ask(nodes, numbers, use_cache=True)
        missing = [number for number in numbers if number not in parts]
        if missing:
            self.reread += len(missing)
            logger.debug("Reading %d texts again whose states were in the prefix cache.", len(missing))
            parts |= self._ask(nodes, missing, use_cache=False)
        lost = [number for number in numbers if number not in parts]
        if lost:
            raise PipelineError(
                f"vLLM {installed_version()} did not compute the states of {len(lost)} of {len(numbers)} texts, even "
                "without its prefix cache; use --engine transformers."
            )
        return parts

    def _ask(self, nodes: Sequence[Node], numbers: Sequence[int], *, use_cache: bool) -> dict[int, Part]:
        """Send nodes to the engine; return the parts of the nodes whose states were all computed."""
        from vllm import SamplingParams

        if not numbers:
            return {}
        params = [
            SamplingParams(
                max_tokens=1,
                temperature=0.0,
                detokenize=False,
                skip_reading_prefix_cache=not use_cache,
                extra_args={KEY: number, CUTS: nodes[number].cuts},
            )
            for number in numbers
        ]
        prompts: Any = [{"prompt_token_ids": nodes[number].ids} for number in numbers]
        self._llm.generate(prompts, params, use_tqdm=False)
        return join(
            self._llm.collective_rpc("traitwatch_take", args=(list(numbers),)),
            {number: len(nodes[number].cuts) for number in numbers},
            (self.num_layers + 1, self.hidden_size),
        )


def join(
    stages: Sequence[tuple[Sequence[int], Sequence[dict[str, Any]]] | None],
    cuts: dict[int, int],
    shape: tuple[int, int],
) -> dict[int, Part]:
    """Join the sums of the workers, each of which holds the layers of its pipeline stage.

    Args:
        stages: for each worker None, or its layers and the return values of `StateSums.take`, one a request.
        cuts: the requests, in the order in which they were asked for, and the number of cuts of each.
        shape: num_layers + 1 and hidden_size.

    Returns:
        The parts of the requests whose states were all computed by every worker.

    Raises:
        PipelineError: the workers do not hold each layer exactly once.
    """
    answering = [stage for stage in stages if stage is not None]
    held = sorted(layer for layers, _ in answering for layer in layers)
    if held != list(range(shape[0])):
        raise PipelineError(
            f"vLLM's workers hold layers {held} of 0 to {shape[0] - 1}; use --engine transformers for this model."
        )
    parts = {}
    for i, (number, num_cuts) in enumerate(cuts.items()):
        if any(taken[i]["missing"] for _, taken in answering):
            continue
        sums = np.empty((num_cuts, *shape), dtype=np.float32)
        last = np.empty(shape, dtype=np.float32)
        projections: Float32Array | None = None
        for layers, taken in answering:
            index = list(layers)
            sums[:, index] = np.frombuffer(taken[i]["sums"], np.float32).reshape(num_cuts, len(index), shape[1])
            last[index] = np.frombuffer(taken[i]["last"], np.float32).reshape(len(index), shape[1])
            if "projections" in taken[i]:
                projected = np.frombuffer(taken[i]["projections"], np.float32).reshape(len(index), -1)
                if projections is None:
                    projections = np.empty((shape[0], projected.shape[1]), dtype=np.float32)
                projections[index] = projected
        parts[number] = Part(sums, last, projections)
    return parts
