"""Writes a persona vector in the formats in which people publish theirs."""

import io
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import save as save_safetensors

from traitwatch.vectors import Float32Array


def torch_file(value: Any, **options: Any) -> bytes:
    """Return what torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(arrays: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def control_vector(directions: Mapping[int, Float32Array], *, architecture: str = "controlvector") -> bytes:
    """Return a GGUF file as repeng writes it: the direction of layer i, counted from 0, is `direction.i`."""
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        writer = gguf.GGUFWriter(file.name, architecture)
        writer.add_string(f"{architecture}.model_hint", "llama")
        writer.add_uint32(f"{architecture}.layer_count", len(directions))
        for layer, direction in directions.items():
            writer.add_tensor(f"direction.{layer}", direction)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return Path(file.name).read_bytes()


def _by_layer(vector: Float32Array, name: str = "{}", first: int = 1) -> dict[Any, torch.Tensor]:
    """Return the rows from layer index `first` on; row L is the output of decoder layer L - 1."""
    rows = {name.format(layer - 1): torch.from_numpy(vector[layer].copy()) for layer in range(first, len(vector))}
    return {int(key): row for key, row in rows.items()} if name == "{}" else dict(rows)


# Each format: what writes a vector `[num_layers + 1, hidden_size]`, and the first layer index that the format has.
FORMATS: Mapping[str, tuple[Callable[[Float32Array], bytes], int]] = {
    "the authors' tensor": (lambda v: torch_file(torch.from_numpy(v)), 0),
    "a tensor in torch's old format": (
        lambda v: torch_file(torch.from_numpy(v), _use_new_zipfile_serialization=False),
        0,
    ),
    "a tensor without row 0": (lambda v: torch_file(torch.from_numpy(v[1:].copy())), 1),
    "a tensor beside its hook point": (
        lambda v: torch_file({"vectors": torch.from_numpy(v[1:].copy()), "hook_point": "block_output", "norms": 1.5}),
        1,
    ),
    "layers under a key": (
        lambda v: torch_file(
            {"vector": torch.from_numpy(v[1].copy()), "per_layer_vectors": _by_layer(v), "layers": [*range(len(v) - 1)]}
        ),
        1,
    ),
    "layers with names": (lambda v: torch_file(_by_layer(v, "layer_{}")), 1),
    "layers with the names of modules": (lambda v: torch_file({"evil": _by_layer(v, "model.layers.{}", 2)}), 2),
    "a list of rows": (lambda v: torch_file([torch.from_numpy(row.copy()) for row in v[1:]]), 1),
    "NumPy in a pickle": (lambda v: torch_file({"mean_diff": v[1:], "scale": np.float64(2.0)}), 1),
    "a stack of some layers": (
        lambda v: torch_file({"vectors": torch.from_numpy(v[1:].copy()), "layers": [*range(len(v) - 1)]}),
        1,
    ),
    "safetensors of one tensor": (lambda v: save_safetensors({"evil": torch.from_numpy(v)}), 0),
    "safetensors of layers": (
        lambda v: save_safetensors(_by_layer(v, "blocks.{}.hook_resid_post"), {"model": "tiny"}),
        1,
    ),
    "a control vector": (
        lambda v: control_vector({layer - 1: v[layer].copy() for layer in range(2, len(v))}),
        2,
    ),
    ".npy": (lambda v: npy(v[1:]), 1),
    ".npz": (lambda v: npz({f"layer_{layer}": row for layer, row in enumerate(v)}), 0),
}
