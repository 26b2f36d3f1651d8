"""A file that is no readable tensor is refused in our own words: what the file is, and what to do."""

import gzip
import io
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save as safetensors_save

from tests.support.published import npy, torch_file
from traitwatch.errors import ArtifactError
from traitwatch.vectors import SHIPPED, load_tensor, load_vectors

SHIPPED_VECTOR = SHIPPED / "SmolLM2-135M-Instruct" / "paternalism_response_avg_diff.pt"
VECTOR = torch.arange(12, dtype=torch.float32).reshape(3, 4) + 1


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def zipped(content: bytes, compression: int) -> bytes:
    """Return a file of torch.save with its parts compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return buffer.getvalue()


class Exploit:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def refusal(path: Path, content: bytes) -> str:
    """Return the message for a file, checked for what no message may hold."""
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ArtifactError) as error:
            load_tensor(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "weights_only" not in message
    assert "PyTorch 2.6" not in message
    assert error.value.__cause__ is None
    return message.replace(str(path), "FILE")


FILES = {
    "cut off": (
        SHIPPED_VECTOR.read_bytes()[:20000],
        "FILE is not a plain tensor of torch.save, but cut off or unreadable (20000 bytes)",
        "copy it again",
    ),
    "cut off, old format": (
        torch_file(VECTOR, _use_new_zipfile_serialization=False)[:-9],
        "FILE is not a plain tensor: it is cut off or unreadable",
        "copy it again",
    ),
    "empty": (b"", "FILE is not a plain tensor of torch.save, but empty (0 bytes)", "download it again"),
    "Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 72345\n",
        "FILE is not a plain tensor of torch.save, but a Git LFS pointer",
        "`git lfs pull`",
    ),
    "HTML": (
        b"\n <!DOCTYPE HTML><html><body>Sign in</body></html>",
        "FILE is not a plain tensor of torch.save, but an HTML page",
        "download the file itself",
    ),
    "XML": (
        b'<?xml version="1.0"?><Error/>',
        "FILE is not a plain tensor of torch.save, but an XML document",
        "download the file itself",
    ),
    "text": (
        b"Access denied",
        "FILE is not a plain tensor of torch.save, but a text that begins with 'Access denied'",
        "download the file itself",
    ),
    "JSON": (
        b'{"vector": [1, 2]}',
        "FILE is not a plain tensor of torch.save, but JSON text",
        "give the file of the tensors",
    ),
    "NumPy": (
        npy(VECTOR.numpy()),
        "FILE is not a plain tensor of torch.save, but a NumPy array",
        "`traitwatch import FILE",
    ),
    "NumPy archive": (
        npz(v=VECTOR.numpy()),
        "FILE is not a plain tensor of torch.save, but an archive of NumPy arrays",
        "`traitwatch import FILE",
    ),
    "safetensors": (
        safetensors_save({"v": VECTOR}),
        "FILE is not a plain tensor of torch.save, but a safetensors file",
        "`traitwatch import FILE",
    ),
    "GGUF": (
        b"GGUF\x03\0\0\0" + bytes(40),
        "FILE is not a plain tensor of torch.save, but a GGUF file",
        "`traitwatch import FILE",
    ),
    "gzip": (
        gzip.compress(torch_file(VECTOR)),
        "FILE is not a plain tensor of torch.save, but compressed with gzip",
        "unpack it",
    ),
    "zip": (
        zipped(torch_file(VECTOR), zipfile.ZIP_DEFLATED),
        "FILE is not a plain tensor of torch.save, but an archive with compressed parts",
        "save it with",
    ),
    "pickle": (
        pickle.dumps([1, 2]),
        "FILE is not a plain tensor of torch.save, but a pickle that torch.save did not write",
        "save its tensors with",
    ),
    "another pickle protocol": (torch_file(VECTOR, pickle_protocol=4), "pickle protocol", "torch.save(tensor, FILE)"),
    "damaged": (
        b"\x01\x02\xff" * 9,
        "FILE is not a plain tensor of torch.save, but cut off, damaged or of an unknown format (27 bytes)",
        "copy it again",
    ),
    "a number": (torch_file(1), "FILE holds an int, not a plain tensor: 1", "give a file of vectors"),
    "a code object": (
        torch_file({"f": io.BytesIO}),
        "it holds _io.BytesIO, and such a pickle could run code",
        "save its tensors with torch.save",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_what_a_file_is_and_what_to_do_are_named(name: str, tmp_path: Path) -> None:
    content, what, remedy = FILES[name]
    message = refusal(tmp_path / "evil.pt", content)
    assert what in message
    assert remedy in message


PUBLISHED = {
    "a stack under a key": (
        {"vectors": torch.zeros(28, 3584), "hook_point": "block_output"},
        "holds a dict, not a plain tensor: vectors: float32 [28, 3584], hook_point: 'block_output'",
    ),
    "layers under a key": (
        {"per_layer_vectors": {24: torch.zeros(8), 26: torch.zeros(8)}},
        "per_layer_vectors: a dict of 2 (for example 24: float32 [8])",
    ),
    "a list": ([torch.zeros(8), torch.zeros(8)], "holds a list, not a plain tensor: float32 [8], float32 [8]"),
    "NumPy in a pickle": ({"v": np.zeros((3, 4), np.float32)}, "v: <f4 numpy [3, 4]"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_keys_and_shapes_of_published_vectors_are_named(name: str, tmp_path: Path) -> None:
    value, words = PUBLISHED[name]
    message = refusal(tmp_path / "evil.pt", torch_file(value))
    assert words in message
    assert "`traitwatch import FILE --model MODEL --out DIR` makes a persona vector of it" in message


TENSORS = {
    "a view of terabytes": (torch.zeros(1).expand(10**6, 10**6), "claims float32 [1000000, 1000000]"),
    "no data": (torch.empty(3, 4, device="meta"), "without data (meta)"),
    "sparse": (VECTOR.to_sparse(), "sparse_coo [3, 4]"),
    "complex": (VECTOR.to(torch.complex64), "complex64 [3, 4]"),
    "bool": (VECTOR > 2, "bool [3, 4]"),
    "beyond float32": (VECTOR.double() * 1e300, "too large for float32"),
    "one row": (VECTOR[:1], "shape [1, 4]"),
    "no row": (VECTOR[:0], "shape [0, 4]"),
    "no width": (VECTOR[:, :0], "shape [3, 0]"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_without_usable_values_is_refused(name: str, tmp_path: Path) -> None:
    tensor, words = TENSORS[name]
    assert words in refusal(tmp_path / "evil.pt", torch_file(tensor))


READABLE: dict[str, Callable[[], Any]] = {
    "float64": lambda: VECTOR.double(),
    "bfloat16": lambda: VECTOR.bfloat16(),
    "float16": lambda: VECTOR.half(),
    "a parameter": lambda: torch.nn.Parameter(VECTOR),
    "transposed in memory": lambda: VECTOR.T.contiguous().T,
    "negated lazily": lambda: torch._neg_view(-VECTOR),
}


@pytest.mark.parametrize("name", READABLE)
def test_the_values_of_any_floating_tensor_are_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    path.write_bytes(torch_file(READABLE[name]()))
    assert np.array_equal(load_tensor(path), VECTOR.numpy())


def test_no_pickle_runs_code_whatever_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    target = tmp_path / "written"
    for content in (
        pickle.dumps(Exploit(target)),
        torch_file(Exploit(target)),
        torch_file({"a": VECTOR, "b": Exploit(target)}),
    ):
        refusal(tmp_path / "evil.pt", content)
        assert not target.exists()


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    folder, loop, device = (tmp_path / name for name in ("folder.pt", "loop.pt", "device.pt"))
    pipe, beyond = tmp_path / "pipe.pt", tmp_path / "file" / "x.pt"
    (tmp_path / "file").touch()
    folder.mkdir()
    loop.symlink_to(loop)
    device.symlink_to("/dev/zero")
    os.mkfifo(pipe)
    for path, words in (
        (folder, "is a directory"),
        (loop, "cannot be read"),
        (device, "is a device"),
        (pipe, "is a device, socket or pipe"),
        (beyond, "cannot be read"),
        (tmp_path / "a\0b.pt", "cannot be read"),
        (tmp_path / ("x" * 300), "cannot be read"),
        (tmp_path / "missing.pt", "no such file"),
    ):
        with pytest.raises(ArtifactError, match=words):
            load_tensor(path)


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the error of the system is put in its place."""
    path = tmp_path / "evil.pt"
    path.write_bytes(torch_file(VECTOR))

    def denied(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(ArtifactError, match=r"cannot be read: Permission denied; give this user the right to it"):
        load_tensor(path)


def test_a_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    with path.open("wb") as file:
        file.truncate(2 * 1024**3 + 1)
    with pytest.raises(ArtifactError, match="2147483649 bytes, and persona vectors have a few megabytes"):
        load_tensor(path)


def test_hidden_files_are_no_vectors(tmp_path: Path) -> None:
    """macOS puts a file `._evil.pt` beside each file of an archive."""
    (tmp_path / "evil.pt").write_bytes(torch_file(VECTOR))
    (tmp_path / "._evil.pt").write_bytes(b"Mac OS X")
    assert [vector.trait for vector in load_vectors([tmp_path])] == ["evil"]


def test_a_zero_layer_says_which_layers_there_are(tmp_path: Path) -> None:
    sparse = torch.zeros(6, 4)
    sparse[[1, 2, 3, 5]] = 1
    (tmp_path / "evil.pt").write_bytes(torch_file(sparse))
    (vector,) = load_vectors([tmp_path])
    with pytest.raises(ArtifactError, match="zero at layer 4; it has layers 1 to 3, 5, choose one of these"):
        vector.direction(4)


def test_a_direction_of_huge_values_has_length_one(tmp_path: Path) -> None:
    (tmp_path / "evil.pt").write_bytes(torch_file(torch.full((2, 64), 3e38)))
    (vector,) = load_vectors([tmp_path])
    assert np.linalg.norm(vector.direction(1).astype(np.float64)) == pytest.approx(1.0)


def test_a_card_that_is_json_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evil.pt").write_bytes(torch_file(VECTOR))
    for content in ([], {"trait": "evil"}, None, "text"):
        (tmp_path / "evil.json").write_text(json.dumps(content))
        with pytest.raises(ArtifactError, match="not a valid Card"):
            load_vectors([tmp_path])
