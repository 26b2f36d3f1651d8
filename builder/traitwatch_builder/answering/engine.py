"""Answers from a vLLM engine of our own. The engine ends when all answers are there.

`traitwatch_builder.models.vllm_engine` says in which process the engine runs, and why.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from traitwatch.precision import default_vllm_dtype
from traitwatch.vllm_private.offline import end_engine, finished_outputs
from traitwatch_builder.answering.source import Answer, ChatPrompt, Sampling
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.models.chat import without_thinking
from traitwatch_builder.models.vllm_engine import in_this_process_on_a_cpu, vllm_environment


class Engine:
    """A vLLM engine that answers."""

    def __init__(
        self,
        model: Path | str,
        sampling: Sampling,
        max_model_len: int,
        thinking_opened: bool = False,
        tensor_parallel_size: int = 1,
        pipeline_parallel_size: int = 1,
    ):
        """Start the engine; `close` ends it.

        Args:
            model: the model's directory or hub name.
            sampling: how the engine draws answers.
            max_model_len: the tokens of the longest conversation, its answer included.
            thinking_opened: whether the chat template ends inside the thinking of a reasoning model.
            tensor_parallel_size: GPUs over which each layer is split.
            pipeline_parallel_size: groups of GPUs over which the layers are split.

        Raises:
            PipelineError: vLLM does not start.
        """
        vllm_environment()
        from vllm import LLM, SamplingParams

        try:
            with in_this_process_on_a_cpu(workers=tensor_parallel_size * pipeline_parallel_size):
                self._llm = LLM(
                    model=str(model),
                    dtype=default_vllm_dtype(),
                    seed=sampling.seed,
                    # Without this bound, vLLM wants a KV cache for the model's whole context: 16 GiB for Llama 3.1.
                    max_model_len=max_model_len,
                    tensor_parallel_size=tensor_parallel_size,
                    pipeline_parallel_size=pipeline_parallel_size,
                    enforce_eager=True,
                )
        except (RuntimeError, ValueError) as error:
            raise PipelineError(
                f"vLLM does not start with {model}: {error} See its log above; --tensor-parallel-size spreads "
                "the model over several GPUs, and --endpoint has a server of your own answer."
            ) from error
        self._enqueued = 0
        self._thinking_opened = thinking_opened
        self._params = SamplingParams(
            temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=sampling.max_tokens
        )

    def answer(self, prompts: Sequence[ChatPrompt], advance: Callable[[int], None]) -> Iterator[tuple[int, Answer]]:
        """Answer conversations; see `Answers`. The engine gets all of them at once, so that its batch stays full."""
        raw: Any = [{"prompt_token_ids": prompt.ids} for prompt in prompts]
        self._llm.enqueue(raw, self._params, use_tqdm=False)
        # vLLM numbers the requests of an engine in order, from 0.
        first, self._enqueued = self._enqueued, self._enqueued + len(prompts)
        for output in finished_outputs(self._llm):
            only = output.outputs[0]
            advance(1)
            yield int(output.request_id) - first, self._answer(only.text, only.finish_reason == "stop")

    def _answer(self, text: str, finished: bool) -> Answer:
        return Answer(without_thinking(text, opened=self._thinking_opened).strip(), finished)

    def close(self) -> None:
        """End the engine and free its memory."""
        end_engine(self.__dict__.pop("_llm"))
