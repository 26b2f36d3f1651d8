"""Reads answers as the Persona Vectors authors' code does, one text at a time, and compares our engines with it."""

import logging
from typing import Any

import numpy as np
import torch

from traitwatch.vectors import Float32Array
from traitwatch_builder.reading.states import Span, StateReader

logger = logging.getLogger(__name__)

MIN_COSINE, MIN_COSINE_VLLM = 0.9999, 0.999
KINDS = ("response_avg", "prompt_avg", "prompt_last")
Examples = list[tuple[str, str]]
"""Rendered prompts and the answers after them."""


@torch.inference_mode()
def reference(model: Any, tokenizer: Any, examples: Examples) -> Float32Array:
    """Return the authors' means over examples of response_avg, prompt_avg, prompt_last: `[3, layers, hidden_size]`."""
    total = 0.0
    for prompt, answer in examples:
        inputs = tokenizer(prompt + answer, return_tensors="pt", add_special_tokens=False)
        prompt_len = len(tokenizer.encode(prompt, add_special_tokens=False))
        hidden = torch.stack(model(**inputs, output_hidden_states=True).hidden_states)[:, 0]
        response_avg, prompt_avg = hidden[:, prompt_len:].mean(dim=1), hidden[:, :prompt_len].mean(dim=1)
        total += torch.stack([response_avg, prompt_avg, hidden[:, prompt_len - 1]]).double().numpy()
    return np.asarray(total / len(examples), dtype=np.float32)


def ours(reader: StateReader, tokenizer: Any, examples: Examples) -> Float32Array:
    """Return the same means as one of our engines reads them."""
    spans = []
    for prompt, answer in examples:
        ids, prompt_ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt + answer, prompt))
        spans += [Span(ids, len(prompt_ids)), Span(prompt_ids, 0)]
    counts: list[int] = []
    readings = dict(reader.read(spans, counts.append))
    assert len(readings) == sum(counts) == len(spans)
    answers, prompts = ([readings[i] for i in range(first, len(spans), 2)] for first in (0, 1))
    per_kind = ([r.mean for r in answers], [r.mean for r in prompts], [r.last for r in prompts])
    return np.stack([np.mean(values, axis=0, dtype=np.float64) for values in per_kind]).astype(np.float32)


def cosines(got: Float32Array, expected: Float32Array) -> Float32Array:
    """Return the cosine per kind and layer; 1 where both are zero, as for the embedding of the same last token."""
    both_zero = ~got.any(axis=-1) & ~expected.any(axis=-1)
    dot = (got.astype(np.float64) * expected).sum(-1)
    norms = np.linalg.norm(got.astype(np.float64), axis=-1) * np.linalg.norm(expected.astype(np.float64), axis=-1)
    return np.where(both_zero, 1.0, dot / np.where(both_zero, 1.0, norms))


def difference(reader: StateReader, tokenizer: Any, polarities: dict[str, Examples]) -> Float32Array:
    return ours(reader, tokenizer, polarities["pos"]) - ours(reader, tokenizer, polarities["neg"])


def lowest(who: str, case: str, got: Float32Array, expected: Float32Array) -> dict[str, float]:
    """Log and return the lowest cosine of any layer, per kind."""
    rows = dict(zip(KINDS, cosines(got, expected), strict=True))
    for kind, row in rows.items():
        logger.info("%s, %s, %s: lowest cosine %.7f at layer %d", who, case, kind, row.min(), row.argmin())
    return {kind: float(row.min()) for kind, row in rows.items()}
