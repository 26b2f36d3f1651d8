"""What long steps have made so far, kept so that an interrupted build goes on where it stopped.

A log is a file of JSON lines, each a key and a value. A key is a hash of everything that the value depends on: what is
in the log need not be made again, whatever else has changed since, and what is not there was never made. A line is
written in one piece as soon as its value exists, so a killed process loses nothing that it had in hand.
"""

import hashlib
import json
import os
from fnmatch import fnmatch
from pathlib import Path
from types import TracebackType
from typing import Any

# What a directory has of a model itself. What people, downloads and builds put beside it does not make it another one.
_MODEL_FILES = (
    *("config.json", "generation_config.json", "configuration_*.py", "modeling_*.py", "tokenization_*.py"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "chat_template*"),
    *("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.pth", "*.gguf"),
)


class KeptValues:
    """The values of a log as it is now; the file is left alone."""

    def __init__(self, path: Path):
        self._values, self._whole = _read(path)

    def get(self, key: str) -> Any | None:
        """Return the value of `key`; None where it has none."""
        return self._values.get(key)

    def __len__(self) -> int:
        return len(self._values)


class Worklog(KeptValues):
    """One log; use it as a context manager, or close it. One process at a time may have it open."""

    def __init__(self, path: Path):
        super().__init__(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        # A line that an interruption cut off would spoil the next one.
        os.ftruncate(self._file, self._whole)

    def put(self, key: str, value: Any) -> None:
        """Keep a JSON value. When this returns the system has it, and a kill of the process cannot lose it."""
        line = json.dumps({"key": key, "value": value}).encode() + b"\n"
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
    """Return the values of a log, and the length of its whole lines in bytes."""
    values: dict[str, Any] = {}
    whole = 0
    if not path.is_file():
        return values, whole
    with path.open("rb") as file:
        for line in file:
            try:
                item = json.loads(line)
                values[item["key"]] = item["value"]
            except (ValueError, KeyError, TypeError):
                break
            if not line.endswith(b"\n"):
                break
            whole += len(line)
    return values, whole


def fingerprint(inputs: object) -> str:
    """Return a SHA-256 of JSON data, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def file_fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_fingerprint(model: Path | str) -> dict[str, Any]:
    """Return what tells a model from another: samples of the files that make it, or its hub name."""
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
    """Return a hash of a file's size and of pieces all over it: whole weights would take minutes to hash."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for i in range(pieces):
            file.seek(max(0, (size - length) * i // (pieces - 1)))
            digest.update(file.read(length))
            if size <= length:
                break
    return digest.hexdigest()
