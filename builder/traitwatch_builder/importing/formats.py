"""Reads a published file: torch.save, safetensors, GGUF control vectors, `.npy` and `.npz`.

`read_published` returns what the file holds as dictionaries, lists, tensors and plain values. The content tells the
format, not the name. No format runs code: see `traitwatch.tensor_files` for pickles; NumPy's are refused.
"""

import hashlib
import io
import json
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType

from traitwatch.errors import ArtifactError
from traitwatch.tensor_files import KindName, kind_of, read_whole, unpickled

# Quantized tensors of a control vector would be a surprise: programs write float32.
_GGUF_FLOATS = ("F16", "F32", "F64")


@dataclass(frozen=True)
class Published:
    """What a file of somebody else's holds.

    Attributes:
        path: the file.
        format: its format, in words.
        content: dictionaries, lists, tensors and plain values.
        metadata: what the format says of the file beside its tensors.
        sha256: hash of the file.
    """

    path: Path
    format: str
    content: Any
    sha256: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


def read_published(path: Path) -> Published:
    """Read a published file.

    Raises:
        ArtifactError: the file cannot be read, is damaged, or is of no known format.
    """
    data = read_whole(path)
    kind = kind_of(data)
    if kind.name == "other":
        raise ArtifactError(f"{path} is {kind.what}, so there is nothing to import; {kind.remedy}.")
    words, content, metadata = _READERS[kind.name](path, data)
    return Published(path, words, content, hashlib.sha256(data).hexdigest(), metadata)


_Read = tuple[str, Any, Mapping[str, Any]]


def _read_torch(path: Path, data: bytes) -> _Read:
    return "torch.save", unpickled(path, data), {}


def _read_safetensors(path: Path, data: bytes) -> _Read:
    from safetensors.torch import load

    try:
        tensors = load(data)
    except Exception as error:
        raise _damaged(path, "safetensors file", data) from error
    # `load` has checked the header.
    (length,) = struct.unpack("<Q", data[:8])
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    return "safetensors", tensors, metadata


def _read_npy(path: Path, data: bytes) -> _Read:
    return "NumPy .npy", _array(path, data, ".npy file"), {}


def _read_npz(path: Path, data: bytes) -> _Read:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:
        raise _damaged(path, "archive of NumPy arrays", data, error) from error
    return "NumPy .npz", arrays, {}


def _array(path: Path, data: bytes, what: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return np.load(io.BytesIO(data), allow_pickle=False)
        except Exception as error:
            raise _damaged(path, what, data, error) from error


def _read_gguf(path: Path, data: bytes) -> _Read:
    try:
        reader = _BoundedReader(path)
        architecture = _text(reader, "general.architecture")
        tensors = {tensor.name: tensor for tensor in reader.tensors}
    except Exception as error:
        raise _damaged(path, "GGUF file", data) from error
    if architecture != "controlvector":
        raise ArtifactError(
            f"{path} is a GGUF file of architecture {architecture[:60]!r}, and no control vector; give the file that "
            "llama.cpp's --control-vector takes."
        )
    kinds = {GGMLQuantizationType(tensor.tensor_type).name for tensor in tensors.values()}
    if unknown := sorted(kinds - set(_GGUF_FLOATS)):
        raise ArtifactError(f"{path} has quantized tensors ({', '.join(unknown)}); export it as F32.")
    arrays = {name: np.array(tensor.data) for name, tensor in tensors.items()}
    return "GGUF control vector", arrays, {"model_hint": _text(reader, "controlvector.model_hint")}


class _BoundedReader(GGUFReader):  # type: ignore[misc]
    """A reader that refuses to read beyond the end. The base class reads nothing there, and goes on for ever."""

    def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
        if int(offset) + int(count) * np.dtype(dtype).itemsize > len(self.data):
            raise ValueError("beyond the end of the file")
        return super()._get(offset, dtype, count, override_order)


def _text(reader: GGUFReader, name: str) -> str:
    found = reader.get_field(name)
    if found is None or found.types != [GGUFValueType.STRING]:
        return ""
    return bytes(found.parts[-1]).decode(errors="replace")


def _damaged(path: Path, what: str, data: bytes, error: Exception | None = None) -> ArtifactError:
    if error is not None and "allow_pickle" in str(error):
        return ArtifactError(
            f"{path} holds pickled objects, which could run code, so it is not read; save arrays of numbers."
        )
    return ArtifactError(f"{path} is a {what} that is cut off or damaged ({len(data)} bytes); copy it again.")


_READERS: Mapping[KindName, Callable[[Path, bytes], _Read]] = {
    "torch": _read_torch,
    "safetensors": _read_safetensors,
    "npy": _read_npy,
    "npz": _read_npz,
    "gguf": _read_gguf,
}
