"""A steered model: `coefficient * vector[L]` is added to its residual stream while it generates answers.

`h_L <- h_L + coefficient * v_L` at every decoding step (Persona Vectors, arXiv 2507.21509); `v_L` is the vector as it
is, not its unit vector. A forward hook on `layers[L - 1]`, whose output has layer index L, adds the product to the last
position of each pass (`steered`). With a KV cache this position is the last token of the prompt in the first pass, from
which the first token of the answer is drawn, and every token of the answer after that. The prompt before its last token
is not changed. The authors' code calls this way `response`, and it is their default. The embedding output (layer 0) and
the state after the final norm (the last index) are not steered.

Each row of a batch may be steered in another way, so that few passes serve many layers and coefficients.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from traitwatch.vectors import Float32Array
from traitwatch_builder.answering.source import Sampling
from traitwatch_builder.errors import PipelineError


@dataclass(frozen=True)
class Steering:
    """The layer at which a vector is added, and the multiple that is added.

    Attributes:
        layer: layer index, 1 to num_layers - 1.
        coefficient: factor of the vector as it is.
    """

    layer: int
    coefficient: float


def decoder_layers(model: Any) -> torch.nn.ModuleList:
    """Return the decoder layers of a model, whatever its architecture calls them.

    Raises:
        PipelineError: the model has no list of as many modules as its configuration has layers, or several lists.
    """
    count = int(model.config.get_text_config().num_hidden_layers)
    # A model that reads images has a second stack of layers; the decoder is the stack that generates text.
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    found = {
        name: module
        for name, module in decoder.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == count
    }
    # Experts inside a layer may be as many as there are layers.
    outer = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
    if len(outer) != 1:
        raise PipelineError(
            f"{type(model).__name__} has {len(outer) or 'no'} lists of {count} decoder layers"
            f"{' (' + ', '.join(outer) + ')' if outer else ''}, so it is unclear where to steer it; "
            "rank its layers without steering (--no-steering)."
        )
    return found[outer[0]]


@contextmanager
def steered(model: Any, additions: Mapping[int, torch.Tensor]) -> Iterator[None]:
    """Steer a model for the time of a `with` block.

    Args:
        model: a causal language model of transformers.
        additions: by layer index, the addend of the last position of every pass: `[batch, hidden_size]` or
            `[1, hidden_size]`, float32. The sum is taken in float32 and rounded once, to the model's dtype.

    Raises:
        PipelineError: a layer cannot be steered, or the model ran without passing through it.
    """
    layers = decoder_layers(model)
    for layer in additions:
        check_layer(layer, len(layers))
    passed: set[int] = set()
    handles = []
    try:
        for layer, addition in additions.items():
            handles.append(layers[layer - 1].register_forward_hook(_adding(addition, layer, passed)))
        yield
    finally:
        for handle in handles:
            handle.remove()
    if missed := sorted(set(additions) - passed):
        raise PipelineError(
            f"{type(model).__name__} did not call its layers {missed}, so it was not steered there; "
            "rank its layers without steering (--no-steering)."
        )


def _adding(addition: torch.Tensor, layer: int, passed: set[int]) -> Callable[[torch.nn.Module, Any, Any], Any]:
    def hook(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        passed.add(layer)
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        last = hidden[:, -1:].float() + addition.to(hidden.device)[:, None]
        moved = torch.cat([hidden[:, :-1], last.to(hidden.dtype)], dim=1)
        return moved if isinstance(output, torch.Tensor) else (moved, *output[1:])

    return hook


def check_layer(layer: int, num_layers: int) -> None:
    """Raise `PipelineError` where a layer index cannot be steered."""
    if not 1 <= layer < num_layers:
        raise PipelineError(
            f"layer {layer} cannot be steered: the model has {num_layers} layers, of which 1 to {num_layers - 1} are "
            "inner; 0 is the embedding output and the last index is the state after the final norm."
        )


class SteeredModel:
    """A model that answers, steered by one persona vector."""

    def __init__(self, model: Any, tokenizer: Any, vector: Float32Array):
        """Prepare a model.

        Args:
            model: a causal language model of transformers.
            tokenizer: the model's tokenizer.
            vector: `[num_layers + 1, hidden_size]`, float32.

        Raises:
            PipelineError: the vector is another model's, or the decoder layers of the model are not found.
        """
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._vector = torch.from_numpy(vector)
        config = model.config.get_text_config()
        expected = [len(decoder_layers(model)) + 1, int(config.hidden_size)]
        if list(vector.shape) != expected:
            raise PipelineError(
                f"the vector has shape {list(vector.shape)}, but the model takes {expected} "
                "(layers + 1, hidden size); give the model on which the vector was built."
            )

    @classmethod
    def load(
        cls, path: Path | str, tokenizer: Any, vector: Float32Array, dtype: str = "bfloat16", device_map: Any = None
    ) -> "SteeredModel":
        """Load a model.

        Args:
            path: directory or hub name of the model.
            tokenizer: the model's tokenizer.
            vector: `[num_layers + 1, hidden_size]`, float32.
            dtype: dtype of weights and states.
            device_map: device map of accelerate, for GPUs; None for the GPU where there is one, else the CPU.
        """
        if device_map is None and torch.cuda.is_available():
            device_map = "cuda"
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype), device_map=device_map)
        return cls(model, tokenizer, vector)

    @torch.inference_mode()
    def answer(
        self, prompts: Sequence[list[int]], steerings: Sequence[Steering | None], sampling: Sampling
    ) -> list[str]:
        """Answer one batch of conversations.

        Args:
            prompts: the token ids of each conversation, up to where the answer begins.
            steerings: how the answer to each prompt is steered; None for an answer that is not steered.
            sampling: how answers are drawn; at temperature 0 the likeliest token is taken. The same batch with the
                same seed has the same answers.

        Returns:
            The answers, without the end token.
        """
        tokens, mask = self._padded(prompts)
        config = self._generation(sampling)
        devices = [tokens.device] if tokens.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), steered(self._model, self._additions(steerings)):
            torch.manual_seed(sampling.seed)
            output = self._model.generate(input_ids=tokens, attention_mask=mask, generation_config=config)
        return [self._text(row) for row in output[:, tokens.shape[1] :].tolist()]

    def _additions(self, steerings: Sequence[Steering | None]) -> dict[int, torch.Tensor]:
        """Return the addend of each layer: `[batch, hidden_size]`, float32, zero in rows steered at other layers."""
        used = {steering.layer for steering in steerings if steering is not None}
        for layer in used:
            check_layer(layer, len(self._vector) - 1)
        additions = {layer: torch.zeros(len(steerings), self._vector.shape[1]) for layer in sorted(used)}
        for row, steering in enumerate(steerings):
            if steering is not None:
                additions[steering.layer][row] = steering.coefficient * self._vector[steering.layer]
        return additions

    def _padded(self, prompts: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Pad on the left, so that the last position of every row is the last token of its prompt."""
        width = max(map(len, prompts))
        tokens = torch.full((len(prompts), width), self._pad)
        mask = torch.zeros(len(prompts), width, dtype=torch.long)
        for i, prompt in enumerate(prompts):
            tokens[i, width - len(prompt) :] = torch.tensor(prompt)
            mask[i, width - len(prompt) :] = 1
        return tokens.to(self._model.device), mask.to(self._model.device)

    def _generation(self, sampling: Sampling) -> GenerationConfig:
        """Return a configuration that overrides all of the model's own, which may have a top_k or a penalty."""
        sampled = sampling.temperature > 0
        return GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=sampling.max_tokens,
            do_sample=sampled,
            temperature=sampling.temperature if sampled else 1.0,
            top_p=sampling.top_p if sampled else 1.0,
            top_k=0 if sampled else 50,
            repetition_penalty=1.0,
            num_beams=1,
            use_cache=True,
            eos_token_id=sorted(self._ends) or None,
            pad_token_id=self._pad,
        )

    @property
    def _ends(self) -> set[int]:
        """Token ids that end an answer, of the model's generation configuration and of the tokenizer."""
        configured = getattr(self._model.generation_config, "eos_token_id", None)
        ends = set(configured) if isinstance(configured, list) else {configured}
        return {int(end) for end in (ends | {getattr(self._tokenizer, "eos_token_id", None)}) if end is not None}

    @property
    def _pad(self) -> int:
        return min(self._ends, default=0)

    def _text(self, ids: list[int]) -> str:
        end = next((i for i, token in enumerate(ids) if token in self._ends), len(ids))
        return str(self._tokenizer.decode(ids[:end], skip_special_tokens=True)).strip()
