"""One model for the time of a command: its tokenizer, and a reader of its states.

The reader is loaded when a step first asks for it; a step that finds its results on file loads no model.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from traitwatch_builder.reading.states import StateReader
from traitwatch_builder.storage.worklog import fingerprint, model_fingerprint

# The most tokens of an elicitation and its answer; longer texts would need a KV cache larger than they are worth.
_LONGEST_TEXT = 8192

ReaderEngine = Literal["transformers", "vllm"]


@dataclass(frozen=True)
class ReaderOptions:
    """The engine that reads hidden states, and how a model is spread over GPUs, to be read or to answer.

    Attributes:
        engine: transformers is the reference; vLLM reads models that are too large for one GPU.
        dtype: dtype of the weights, e.g. `bfloat16`; None for float32, or for vLLM on a GPU the model's own dtype.
        device_map: for transformers: `auto` spreads a model over GPUs; None for one GPU where there is one.
        tensor_parallel_size: for vLLM: GPUs over which each layer is split.
        pipeline_parallel_size: for vLLM: groups of GPUs over which the layers are split.
    """

    engine: ReaderEngine = "transformers"
    dtype: str | None = None
    device_map: str | None = None
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1


class Session:
    """One model for the time of a command.

    Attributes:
        model: directory or hub name of the model.
        options: the engine that reads its states.
        console: where the steps print what they do.
    """

    def __init__(self, model: Path | str, options: ReaderOptions, console: Console):
        """Load nothing yet; the arguments are the attributes."""
        self.model = model
        self.console = console
        self.options = options
        self._reader: StateReader | None = None

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, with a chat template."""
        from traitwatch_builder.models.pretrained import load_tokenizer

        return load_tokenizer(self.model)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """JSON data that differ from one model to another."""
        return model_fingerprint(self.model)

    @cached_property
    def reading(self) -> str:
        """A hash of everything that the states depend on: the model, the engine, its precision."""
        return fingerprint([self.fingerprint, self.options.engine, self.options.dtype])

    def reader(self) -> StateReader:
        """Return the reader; the first call loads the model."""
        if self._reader is None:
            self._reader = self._load()
        return self._reader

    def _load(self) -> StateReader:
        options = self.options
        self.console.print(f"Loading the model with {options.engine} to read its hidden states.")
        import torch

        if options.engine == "vllm":
            from traitwatch_builder.models.pretrained import length_limit
            from traitwatch_builder.reading.vllm_reader import VllmReader

            return VllmReader(
                self.model,
                max_model_len=min(length_limit(self.model), _LONGEST_TEXT),
                dtype=options.dtype or ("auto" if torch.cuda.is_available() else "float32"),
                tensor_parallel_size=options.tensor_parallel_size,
                pipeline_parallel_size=options.pipeline_parallel_size,
            )
        from traitwatch_builder.reading.transformers_reader import Reader

        return Reader.load(self.model, dtype=getattr(torch, options.dtype or "float32"), device_map=options.device_map)

    def close(self) -> None:
        """End an engine, if one was started."""
        close = getattr(self._reader, "close", None)
        if close is not None:
            close()
        self._reader = None


@contextmanager
def open_session(model: Path | str, options: ReaderOptions, console: Console) -> Iterator[Session]:
    """Open a session for the time of a `with` block, and end its engine afterwards."""
    opened = Session(model, options, console)
    try:
        yield opened
    finally:
        opened.close()
