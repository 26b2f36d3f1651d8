"""Computes projections with transformers: the reference of the doctor's parity check."""

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from traitwatch.vectors import Float32Array
from traitwatch_server.doctor.chats import ScoredText
from traitwatch_server.errors import NoReferenceError

# Memory of a model while short texts run through it: a factor on its weights, and a constant.
_WEIGHTS_FACTOR = 1.1
_OVERHEAD_BYTES = 1 << 30


def reference_projections(
    model: str,
    dtype: torch.dtype,
    texts: Sequence[ScoredText],
    directions: Mapping[int, Float32Array],
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> dict[int, dict[int, Float32Array]]:
    """Project the states of texts as transformers computes them.

    Args:
        model: name or path.
        dtype: the dtype of weights and arithmetic.
        texts: the texts whose states are projected.
        directions: layer index to a unit direction, `[hidden_size]`, float32.
        revision: the revision of the model.
        trust_remote_code: as in vLLM.

    Returns:
        By layer of a direction, and by the layer whose states are projected onto it (itself and its neighbours):
        `[states]`, float32, those of all texts one after the other, each from its prompt's last position to its last
        token but one.

    Raises:
        NoReferenceError: transformers cannot load the model, or there is no memory for it.
    """
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        device = _device_with_room(_num_parameters(model, options) * dtype.itemsize)
        loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, device_map=device.type, **options)
        loaded.eval()
        try:
            return _project(loaded, texts, directions)
        finally:
            del loaded
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    except (OSError, ValueError, ImportError, KeyError, AttributeError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise NoReferenceError(f"transformers cannot run the model here in {dtype}: {lines[0][:200]}") from error


@torch.inference_mode()
def _project(
    model: torch.nn.Module, texts: Sequence[ScoredText], directions: Mapping[int, Float32Array]
) -> dict[int, dict[int, Float32Array]]:
    parts: dict[int, dict[int, list[Float32Array]]] = {layer: {} for layer in directions}
    device = next(model.parameters()).device
    for text in texts:
        ids = torch.tensor([text.prompt + text.response], device=device)
        states = model(ids, output_hidden_states=True, use_cache=False).hidden_states
        rows = slice(len(text.prompt) - 1, ids.shape[1] - 1)
        for layer, direction in directions.items():
            for near in range(max(0, layer - 1), min(len(states), layer + 2)):
                projected = states[near][0, rows].float().cpu().numpy() @ direction
                parts[layer].setdefault(near, []).append(projected)
    return {layer: {near: np.concatenate(p) for near, p in by_near.items()} for layer, by_near in parts.items()}


def _num_parameters(model: str, options: Mapping[str, object]) -> int:
    """Count a model's parameters without allocating them."""
    config = AutoConfig.from_pretrained(model, **options)
    make: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        empty = make(config, trust_remote_code=options["trust_remote_code"])
    return sum(parameter.numel() for parameter in empty.parameters())


def _device_with_room(weights: int) -> torch.device:
    """Return the GPU where it has memory for so many bytes of weights, else the CPU."""
    needed = weights * _WEIGHTS_FACTOR + _OVERHEAD_BYTES
    if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] >= needed:
        return torch.device("cuda")
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:") and int(line.split()[1]) * 1024 >= needed:
            return torch.device("cpu")
    raise NoReferenceError(f"the model needs {needed / 2**30:.1f} GiB, which neither a GPU nor the CPU has free.")
