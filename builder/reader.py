"""Reads a model with transformers: log-likelihoods of answers, and their hidden states at every layer.

This is the reference for every number that the server reports: float32 throughout, layer indices as
`output_hidden_states` counts them (0 the embedding output, the last after the final norm).
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from builder.artifacts import Float32Array
from builder.conversation import token_ids
from builder.pretrained import load_tokenizer

Text = tuple[list[int], list[int]]
"""The token ids of a prompt and of the answer after it."""


@dataclass(frozen=True)
class States:
    """Means of the hidden states of one text, each `[num_layers + 1, hidden_size]`, float32.

    Attributes:
        response_avg: over the answer's tokens.
        prompt_avg: over the prompt's tokens.
        prompt_last: at the prompt's last token.
    """

    response_avg: Float32Array
    prompt_avg: Float32Array
    prompt_last: Float32Array


class Reader:
    """A model and its tokenizer.

    Attributes:
        tokenizer: the tokenizer, with the model's chat template.
        num_layers: decoder layers.
        hidden_size: width of the residual stream.
    """

    def __init__(self, model: Any, tokenizer: Any):
        self.tokenizer = tokenizer
        self._model = model.eval()
        text = model.config.get_text_config()
        self.num_layers = int(text.num_hidden_layers)
        self.hidden_size = int(text.hidden_size)
        self._device = next(model.parameters()).device

    @classmethod
    def load(cls, path: Path | str) -> "Reader":
        """Load a model in float32, on the GPU where there is one."""
        tokenizer = load_tokenizer(path)
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        return cls(model.to("cuda") if torch.cuda.is_available() else model, tokenizer)

    @torch.inference_mode()
    def log_likelihoods(
        self, opening: list[int], texts: Sequence[Text], advance: Callable[[int], None], batch_size: int = 4
    ) -> Iterator[Float32Array]:
        """Yield the log-probability of every token of each answer: `[answer length]`, float32, natural logarithm.

        Args:
            opening: token ids that all the prompts begin with; their keys and values are computed once.
            texts: prompts (which begin with `opening`) and answers (not empty).
            advance: called with the number of texts that have just been read.
            batch_size: texts read at once.
        """
        cache = self._cache(opening)
        for first in range(0, len(texts), batch_size):
            batch = texts[first : first + batch_size]
            rows = [[*prompt[len(opening) :], *answer] for prompt, answer in batch]
            logits = self._model(**self._after(cache, rows)).logits
            for i, (prompt, answer) in enumerate(batch):
                start = len(prompt) - len(opening)
                scores = logits[i, start - 1 : start - 1 + len(answer)].float().log_softmax(dim=-1)
                chosen = scores.gather(1, torch.tensor(answer, device=scores.device)[:, None])[:, 0]
                yield chosen.cpu().numpy()
            advance(len(batch))

    @torch.inference_mode()
    def hidden_states(
        self, texts: Sequence[Text], advance: Callable[[int], None], batch_size: int = 4
    ) -> Iterator[Float32Array]:
        """Yield the hidden states of each text: `[num_layers + 1, num_tokens, hidden_size]`, float32."""
        for first in range(0, len(texts), batch_size):
            batch = texts[first : first + batch_size]
            tokens, mask = self._pad([[*prompt, *answer] for prompt, answer in batch])
            output = self._model.base_model(tokens, attention_mask=mask, output_hidden_states=True, use_cache=False)
            for i, (prompt, answer) in enumerate(batch):
                yield _stacked(output.hidden_states, i, len(prompt) + len(answer))
            advance(len(batch))

    def mean_states(
        self, texts: Sequence[Text], advance: Callable[[int], None], batch_size: int = 4
    ) -> Iterator[States]:
        """Yield the means of each text's states; padding takes no part in them."""
        for (prompt, _), states in zip(texts, self.hidden_states(texts, advance, batch_size), strict=True):
            split = len(prompt)
            yield States(
                response_avg=states[:, split:].mean(axis=1),
                prompt_avg=states[:, :split].mean(axis=1),
                prompt_last=states[:, split - 1].copy(),
            )

    @torch.inference_mode()
    def prompt_states(
        self, opening: list[int], prompts: Sequence[list[int]], advance: Callable[[int], None], batch_size: int = 4
    ) -> Iterator[tuple[Float32Array, Float32Array]]:
        """Yield the mean of each prompt's states and the state at its last token.

        Args:
            opening: token ids that all the prompts begin with; it is read once.
            prompts: token ids that begin with `opening` and go on.
            advance: called with the number of prompts that have just been read.
            batch_size: prompts read at once.

        Returns:
            Per prompt two arrays `[num_layers + 1, hidden_size]`, float32.
        """
        cache, opening_sum = None, np.zeros((self.num_layers + 1, self.hidden_size))
        if opening:
            cache = DynamicCache(config=self._model.config)
            output = self._model.base_model(
                torch.tensor([opening], device=self._device),
                past_key_values=cache,
                output_hidden_states=True,
                use_cache=True,
            )
            opening_sum = _stacked(output.hidden_states, 0, len(opening)).sum(axis=1, dtype=np.float64)
        for first in range(0, len(prompts), batch_size):
            batch = prompts[first : first + batch_size]
            own = [prompt[len(opening) :] for prompt in batch]
            output = self._model.base_model(**self._after(cache, own), output_hidden_states=True)
            for i, row in enumerate(own):
                states = _stacked(output.hidden_states, i, len(row))
                mean = (opening_sum + states.sum(axis=1, dtype=np.float64)) / (len(opening) + len(row))
                yield mean.astype(np.float32), states[:, -1].copy()
            advance(len(batch))

    def token_ids(self, messages: list[dict[str, str]]) -> list[int]:
        """Return the tokens of a conversation up to where the assistant's answer begins."""
        return token_ids(self.tokenizer, messages)

    def _cache(self, opening: list[int]) -> DynamicCache | None:
        if not opening:
            return None
        cache = DynamicCache(config=self._model.config)
        self._model.base_model(torch.tensor([opening], device=self._device), past_key_values=cache, use_cache=True)
        return cache

    def _after(self, cache: DynamicCache | None, rows: Sequence[list[int]]) -> dict[str, Any]:
        """Return the model's arguments for reading rows after the opening that `cache` holds, if there is one."""
        tokens, mask = self._pad(rows)
        if cache is None:
            return {"input_ids": tokens, "attention_mask": mask, "use_cache": False}
        mask = torch.cat([mask.new_ones(len(rows), cache.get_seq_length()), mask], dim=1)
        past = _repeated(cache, len(rows))
        return {"input_ids": tokens, "attention_mask": mask, "past_key_values": past, "use_cache": True}

    def _pad(self, rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Pad on the right, where no token that counts can see it."""
        width = max(map(len, rows))
        tokens = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        return tokens.to(self._device), mask.to(self._device)


def _stacked(hidden_states: Sequence[torch.Tensor], row: int, length: int) -> Float32Array:
    """Return the first `length` states of a batch's row: `[num_layers + 1, length, hidden_size]`, float32."""
    return np.stack([state[row, :length].float().cpu().numpy() for state in hidden_states])


def _repeated(cache: DynamicCache, count: int) -> DynamicCache:
    """Return a copy of a cache of one text for a batch of `count`."""
    repeated = copy.deepcopy(cache)
    repeated.batch_repeat_interleave(count)
    return repeated


def shared_prefix(prompts: Sequence[list[int]]) -> list[int]:
    """Return the tokens that all prompts begin with, leaving each at least one of its own."""
    shortest = min(map(len, prompts)) - 1
    first = prompts[0]
    length = 0
    while length < shortest and all(prompt[length] == first[length] for prompt in prompts):
        length += 1
    return first[:length]
