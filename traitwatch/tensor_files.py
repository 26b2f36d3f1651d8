"""Reads files that hold tensors, and says what a file is that holds none.

`read_whole` opens a file of a user's: nothing but a readable regular file of a plausible size. `kind_of` looks at the
first bytes: published vectors are often a Git LFS pointer, a page of a login, or another format under the name `.pt`.
`unpickled` reads what torch.save wrote, with `weights_only=True`, so that no pickle can run code. Whatever torch raises
then becomes an `ArtifactError` of ours: torch's own text tells how to switch that protection off. NumPy arrays inside
such a file become `PickledArray`, so that no code of NumPy reads a pickle either.
"""

import io
import pickle
import re
import shlex
import stat
import struct
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from traitwatch.errors import ArtifactError
from traitwatch.files import read_bytes, reading
from traitwatch.tensor_values import PickledArray, shortened

# Bytes of the largest file that is read. A vector of 200 layers of width 32768 takes 26 MB.
MOST_BYTES = 2 * 1024**3
# torch's format before version 1.6 begins with this pickled number.
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

KindName = Literal["torch", "safetensors", "gguf", "npy", "npz", "other"]


@dataclass(frozen=True)
class Kind:
    """What a file is, by its first bytes.

    Attributes:
        name: the format that can be read; `other` for all else.
        what: the same in words, after "FILE is".
        remedy: what to do, for `other`.
    """

    name: KindName
    what: str
    remedy: str = ""


def read_whole(path: Path) -> bytes:
    """Return the content of a file; raise `ArtifactError` for all but a readable regular file of a plausible size."""
    try:
        with reading(path):
            found = path.stat()
    except ValueError as error:
        raise ArtifactError(f"{path} cannot be read ({error}); check the path.") from None
    if stat.S_ISDIR(found.st_mode):
        raise ArtifactError(f"{path} is a directory; give a file in it.")
    if not stat.S_ISREG(found.st_mode):
        raise ArtifactError(f"{path} is a device, socket or pipe; give a regular file.")
    if found.st_size > MOST_BYTES:
        raise ArtifactError(
            f"{path} has {found.st_size} bytes, and persona vectors have a few megabytes; give a file of "
            f"{MOST_BYTES} bytes at most, without weights or activations."
        )
    return read_bytes(path)


def kind_of(data: bytes) -> Kind:
    """Return what a file's content is."""
    text = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    if not data:
        return Kind("other", "empty (0 bytes)", "copy or download it again")
    if data.startswith(b"PK\x03\x04"):
        return _zip_kind(data)
    for start, kind in _KINDS:
        if text[: len(start)].lower() == start or data.startswith(start):
            return kind
    if _is_safetensors(data):
        return Kind("safetensors", "a safetensors file")
    if data[0] == 0x80 and len(data) > 1 and data[1] <= pickle.HIGHEST_PROTOCOL:
        if _LEGACY_TORCH.startswith(data[: len(_LEGACY_TORCH)]):
            return _cut_off(data)
        return Kind(
            "other",
            "a pickle that torch.save did not write, and such a file could run code",
            "save its tensors with torch.save, or its arrays with numpy.save",
        )
    if text[:1] in (b"{", b"["):
        return Kind("other", "JSON text", "give the file of the tensors")
    if _is_text(data):
        return Kind("other", f"a text that begins with {shortened(text.decode(errors='replace'))!r}", _FETCH)
    return Kind("other", f"cut off, damaged or of an unknown format ({len(data)} bytes)", "copy it again")


_FETCH = "download the file itself"
_UNPACK = "unpack it, and give the file inside"
_KINDS = (
    (_LEGACY_TORCH, Kind("torch", "a file of torch.save")),
    (b"GGUF", Kind("gguf", "a GGUF file")),
    (b"\x93NUMPY", Kind("npy", "a NumPy array (.npy)")),
    (
        b"version https://git-lfs.github.com/",
        Kind("other", "a Git LFS pointer, which stands for the real file", "fetch the real one with `git lfs pull`"),
    ),
    (b"<!doctype html", Kind("other", "an HTML page, for example of a login", _FETCH)),
    (b"<html", Kind("other", "an HTML page, for example of a login", _FETCH)),
    (b"<?xml", Kind("other", "an XML document, for example an error of a storage service", _FETCH)),
    (b"\x1f\x8b", Kind("other", "compressed with gzip", _UNPACK)),
    (b"BZh", Kind("other", "compressed with bzip2", _UNPACK)),
    (b"\xfd7zXZ\x00", Kind("other", "compressed with xz", _UNPACK)),
    (b"\x28\xb5\x2f\xfd", Kind("other", "compressed with zstd", _UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", Kind("other", "a 7z archive", _UNPACK)),
    (b"\x89HDF", Kind("other", "an HDF5 file", "save its arrays with numpy.save")),
)


def _zip_kind(data: bytes) -> Kind:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except Exception:  # noqa: BLE001 - zipfile raises many kinds of errors for damaged archives
        return _cut_off(data)
    names = [entry.filename for entry in entries]
    if names and all(name.endswith(".npy") for name in names):
        if sum(entry.file_size for entry in entries) > MOST_BYTES:
            return Kind("other", f"an archive of arrays of more than {MOST_BYTES} bytes", "give a smaller one")
        return Kind("npz", "an archive of NumPy arrays (.npz)")
    if not any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return Kind("other", "a zip archive", _UNPACK)
    if any(name.rpartition("/")[2] == "constants.pkl" for name in names):
        return Kind("other", "a TorchScript program", "save its tensors with torch.save")
    compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if compressed or sum(entry.file_size for entry in entries) > len(data):
        return Kind("other", "an archive with compressed parts, and torch.save writes none", "save it with torch.save")
    return Kind("torch", "a file of torch.save")


def _cut_off(data: bytes) -> Kind:
    return Kind("other", f"cut off or unreadable ({len(data)} bytes)", "copy it again")


def _is_safetensors(data: bytes) -> bool:
    if len(data) < 10:
        return False
    (length,) = struct.unpack("<Q", data[:8])
    return length < 100_000_000 and data[8:9] == b"{"


def _is_text(data: bytes) -> bool:
    try:
        text = data[:4096].decode()
    except UnicodeDecodeError as error:
        if error.start < min(len(data), 4096) - 4:
            return False
        text = data[: error.start].decode()
    return all(character.isprintable() or character in "\t\r\n\f" for character in text)


class _PickledDtype:
    def __init__(self, code: Any, *_: Any):
        self._code = str(code)
        self._order = "<"

    def __setstate__(self, state: Any) -> None:
        self._order = str(state[1])

    def __str__(self) -> str:
        return self._order + self._code


def _reconstruct(*_: Any) -> PickledArray:
    return PickledArray()


def _scalar(dtype: Any, data: Any) -> PickledArray:
    array = PickledArray()
    array.__setstate__((1, (), dtype, False, data))
    return array


# What torch's reader makes of NumPy's names. NumPy 1 and 2 have different ones.
_STAND_INS: list[Any] = [
    (PickledArray, "numpy.ndarray"),
    (_PickledDtype, "numpy.dtype"),
    *((_reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
_GLOBAL = re.compile(r"(?:GLOBAL|class|function) <?([\w.]+)")


def unpickled(path: Path, data: bytes) -> object:
    """Return the object in a file of torch.save; tensors are on the CPU.

    Args:
        path: the file, for messages.
        data: its content, of the kind `torch`.

    Raises:
        ArtifactError: the file is cut off or damaged, or holds objects that could run code.
    """
    import torch

    with warnings.catch_warnings(), torch.serialization.safe_globals(_STAND_INS):
        warnings.simplefilter("ignore")
        try:
            # Not the path: for one, torch would also try a format that it unpacks into a temporary folder.
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # noqa: BLE001 - torch raises whatever its parts raise on damaged bytes
            raise ArtifactError(_refusal(path, data, error)) from None


def _refusal(path: Path, data: bytes, error: Exception) -> str:
    text = str(error)
    named = _GLOBAL.search(text)
    if isinstance(error, pickle.UnpicklingError) and named:
        return (
            f"{path} is not a plain tensor: it holds {shortened(named[1])}, and such a pickle could run code, so it "
            "is not read; save its tensors with torch.save, or in a safetensors file."
        )
    if "Unsupported operand" in text:
        return (
            f"{path} is not a plain tensor: it is damaged, or written in another pickle protocol than torch's own "
            f"({len(data)} bytes); copy it again, or save it with torch.save(tensor, FILE)."
        )
    return f"{path} is not a plain tensor: it is cut off or unreadable ({len(data)} bytes); copy it again."


def import_hint(path: Path) -> str:
    """Return the command that makes a persona vector of another file, in backquotes."""
    return f"`traitwatch import {shlex.quote(str(path))} --model MODEL --out DIR`"
