"""Readers of vectors and their cards, and of files that `traitwatch import` takes."""

import functools
import io
import struct
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import save
from transformers import LlamaConfig

from tests.support.fuzzing import Reader
from tests.support.published import FORMATS
from traitwatch.errors import ArtifactError
from traitwatch.vectors import SHIPPED, load_card, load_vector
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.importing.step import ImportOptions, import_step
from traitwatch_builder.storage.workspace import Manifest, Workspace
from traitwatch_builder.vectors.evidence import Evidence

_LAYERS, _WIDTH = 4, 8
_VECTOR = np.random.default_rng(0).standard_normal((_LAYERS + 1, _WIDTH)).astype(np.float32)


def _card(data: bytes, folder: Path) -> None:
    file = folder / "trait.json"
    file.write_bytes(data)
    load_card(file)


def _vector(data: bytes, folder: Path) -> None:
    file = folder / "trait_response_avg_diff.pt"
    file.write_bytes(data)
    load_vector(file)


def _imported(data: bytes, folder: Path) -> None:
    file = folder / "trait"
    file.write_bytes(data)
    options = ImportOptions(str(_model()))
    import_step(file, Workspace(folder / "out", "trait"), options, Console(quiet=True))


@functools.cache
def _model() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="traitwatch-fuzz-model-"))
    LlamaConfig(num_hidden_layers=_LAYERS, hidden_size=_WIDTH, num_attention_heads=2).save_pretrained(directory)
    return directory


def _imported_pickle(data: bytes, folder: Path) -> None:
    """Read a pickle inside an archive that is otherwise whole."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(_published("layers under a key")[0])) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, data if name.endswith("data.pkl") else old.read(name))
    _imported(buffer.getvalue(), folder)


def _imported_header(data: bytes, folder: Path) -> None:
    """Read a safetensors file whose header has the right length."""
    _imported(struct.pack("<Q", len(data)) + data + _VECTOR.tobytes(), folder)


def _evidence(data: bytes, folder: Path) -> None:
    file = folder / "evidence.npz"
    file.write_bytes(data)
    Evidence.load(file)


def _evidence_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "evidence.npz"
        Evidence(np.stack([_VECTOR, _VECTOR]), np.stack([_VECTOR]), ("what of it?",)).save(file)
        return file.read_bytes()


def _manifest(data: bytes, folder: Path) -> None:
    file = folder / "manifest.json"
    file.write_bytes(data)
    Manifest(file, folder).done("extract", [])


def _manifest_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        manifest = Manifest(Path(folder) / "manifest.json", Path(folder))
        manifest.record("extract", [], [])
        return manifest.path.read_bytes()


def _shipped(pattern: str) -> list[bytes]:
    return [file.read_bytes() for file in sorted(SHIPPED.rglob(pattern))[:2]]


def _published(word: str) -> list[bytes]:
    return [write(_VECTOR) for name, (write, _) in FORMATS.items() if word in name]


def _torch_files() -> list[bytes]:
    others = ("safetensors", "control vector", ".np")
    return [write(_VECTOR) for name, (write, _) in FORMATS.items() if not any(word in name for word in others)]


def _pickles() -> list[bytes]:
    pickles = []
    for content in (*_published("layers under a key"), *_published("NumPy in a pickle")):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            pickles.append(archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl"))))
    return pickles


def _headers() -> list[bytes]:
    layers = {f"model.layers.{index}": torch.from_numpy(row) for index, row in enumerate(_VECTOR[1:])}
    rest = {"embeddings": torch.from_numpy(_VECTOR[0])}
    files = [*_published("safetensors of one tensor"), save(layers | rest, {"hook": "block_output"})]
    return [content[8 : 8 + struct.unpack("<Q", content[:8])[0]] for content in files]


def _import(name: str, samples: Callable[[], Sequence[bytes]], read: Callable[[bytes, Path], object]) -> Reader:
    return Reader(f"import of {name}", samples, read, (ArtifactError, PipelineError))


READERS = (
    Reader("card", lambda: _shipped("[a-z]*n.json"), _card, (ArtifactError,)),
    Reader(
        "vector",
        lambda: [*_shipped("*_response_avg_diff.pt"), *_published("tensor in torch's old format")],
        _vector,
        (ArtifactError,),
    ),
    Reader("evidence", lambda: [_evidence_file()], _evidence, (ArtifactError,)),
    Reader("manifest", lambda: [_manifest_file()], _manifest, ()),
    _import("torch.save", _torch_files, _imported),
    _import("a pickle", _pickles, _imported_pickle),
    _import("safetensors", lambda: _published("safetensors"), _imported),
    _import("a safetensors header", _headers, _imported_header),
    _import("a control vector", lambda: _published("control vector"), _imported),
    _import("NumPy", lambda: _published(".np"), _imported),
)
