"""Answers from an own vLLM engine, in a process that lives no longer than they take."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Prompts handed to the engine at once: enough to fill its batch, few enough to lose little on Ctrl-C.
_CHUNK = 64
_SHUTDOWN_SECONDS = 30.0


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn.

    Attributes:
        temperature: of the softmax.
        top_p: nucleus; 1 keeps all tokens.
        max_tokens: where an answer is cut off.
        seed: of the engine. Requests carry none: on vLLM's CPU build a request with a seed ends the engine when its
            prompt is prefilled in chunks.
    """

    temperature: float
    top_p: float
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        text: its text, without the end token.
        finished: whether it ended by itself; False where it was cut off.
    """

    text: str
    finished: bool


class Engine:
    """A vLLM engine that answers."""

    def __init__(self, model: Path | str, sampling: Sampling, max_model_len: int):
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        from vllm import LLM, SamplingParams

        # Without the bound vLLM wants a KV cache for the model's whole context, 16 GiB for Llama 3.1.
        self._llm = LLM(model=str(model), seed=sampling.seed, max_model_len=max_model_len, enforce_eager=True)
        self._params = SamplingParams(
            temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=sampling.max_tokens
        )

    def answer(self, prompts: Sequence[list[int]], advance: Callable[[int], None]) -> Iterator[Answer]:
        """Answer prompts in order.

        Args:
            prompts: the token ids of each conversation.
            advance: called with the number of answers that have just come.
        """
        for first in range(0, len(prompts), _CHUNK):
            chunk: Any = [{"prompt_token_ids": ids} for ids in prompts[first : first + _CHUNK]]
            outputs = self._llm.generate(chunk, self._params, use_tqdm=False)
            advance(len(outputs))
            for output in outputs:
                best = output.outputs[0]
                yield Answer(best.text.strip(), best.finish_reason == "stop")

    def close(self) -> None:
        """End the engine's process and free its memory."""
        self._llm.llm_engine.engine_core.shutdown(timeout=_SHUTDOWN_SECONDS)


@contextmanager
def running_engine(model: Path | str, sampling: Sampling, max_model_len: int) -> Iterator[Engine]:
    """Run an engine for the time of a `with` block.

    Args:
        model: the model's directory or hub name.
        sampling: how answers are drawn.
        max_model_len: tokens that the longest conversation takes, its answer included.
    """
    engine = Engine(model, sampling, max_model_len)
    try:
        yield engine
    finally:
        engine.close()
