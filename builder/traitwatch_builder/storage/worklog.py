"""Worklogs: files with the results of long steps so far. With its worklogs an interrupted build can continue.

A worklog is a file of JSON lines; each line has a key and a value. A key is a hash of everything that the value depends
on. A value in the worklog therefore stays valid, whatever else has changed since; a value that is missing was never
computed. `Worklog.put` writes a line in one piece as soon as the value exists, so a killed process loses no finished
value. A line that is damaged counts as missing: its value is computed again, and the lines after it stay.
"""

import functools
import hashlib
import json
import os
from fnmatch import fnmatch
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from traitwatch.files import reading, writing

T = TypeVar("T")

# The files of a model itself. Other files in its directory, from people, downloads and builds, do not change the model.
_MODEL_FILES = (
    *("config.json", "generation_config.json", "configuration_*.py", "modeling_*.py", "tokenization_*.py"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "chat_template*"),
    *("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.pth", "*.gguf"),
)


class SavedValues:
    """The values of a worklog at the time of reading. This class only reads the file."""

    def __init__(self, path: Path):
        self._values, self._whole = _read(path)

    def get(self, key: str, kind: type[T]) -> T | None:
        """Return the value of `key`, or None if the worklog has no such key, or a value of another kind.

        Args:
            key: the key.
            kind: the type of the value: `str`, a dataclass, a pydantic model or a typed dictionary.
        """
        if key not in self._values:
            return None
        try:
            value: T = _validator(cast(Any, kind)).validate_python(self._values[key])
        except ValidationError:
            return None
        return value

    def __len__(self) -> int:
        return len(self._values)


class Worklog(SavedValues):
    """One worklog, open for writing. Use a worklog as a context manager, or call `close`.

    Only one process at a time may open a worklog.
    """

    def __init__(self, path: Path):
        super().__init__(path)
        self._path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            # An interruption may have cut off the last line. The rest of that line would spoil the next line.
            os.ftruncate(self._file, self._whole)

    def put(self, key: str, value: Any) -> None:
        """Write a JSON value to the worklog.

        After the return the operating system has the value: the value survives a kill of the process.
        """
        line = json.dumps({"key": key, "value": value}).encode() + b"\n"
        with writing(self._path):
            while line:
                line = line[os.write(self._file, line) :]
        self._values[key] = value

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def __enter__(self) -> "Worklog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read(path: Path) -> tuple[dict[str, Any], int]:
    """Return the values of a worklog, and the length of its complete lines in bytes."""
    values: dict[str, Any] = {}
    whole = 0
    if not path.is_file():
        return values, whole
    with reading(path), path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                whole += len(line)
            try:
                item = json.loads(line)
                values[item["key"]] = item["value"]
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
    return values, whole


@functools.cache
def _validator(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def fingerprint(inputs: object) -> str:
    """Return the SHA-256 of JSON data. The order of the keys does not matter."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def file_fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with reading(path), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return digest.hexdigest()


def model_fingerprint(model: Path | str) -> dict[str, Any]:
    """Return data that identifies a model: a hash of samples of the model's files, or the model's hub name."""
    directory = Path(model)
    if not directory.is_dir():
        return {"name": str(model)}
    files = {
        f.name: _sample(f)
        for f in sorted(directory.iterdir())
        if f.is_file() and any(fnmatch(f.name, pattern) for pattern in _MODEL_FILES)
    }
    return {"files": fingerprint(files)}


def _sample(path: Path, pieces: int = 16, length: int = 65536) -> str:
    """Hash the size of a file and pieces from all parts of the file. A hash of whole weights would take minutes."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for i in range(pieces):
            file.seek(max(0, (size - length) * i // (pieces - 1)))
            digest.update(file.read(length))
            if size <= length:
                break
    return digest.hexdigest()
