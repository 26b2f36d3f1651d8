"""Reads JSON files and checks them; writes files whole or not at all."""

import glob
import os
import tempfile
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from traitwatch.errors import ArtifactError

ModelT = TypeVar("ModelT", bound=BaseModel)


def read_json(path: Path, kind: type[ModelT]) -> ModelT:
    """Read the JSON file `path` as a `kind`, or raise `ArtifactError` with every problem and its place."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file.") from None
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors(include_url=False)
        )
        raise ArtifactError(f"{path} is not a valid {kind.__name__}: {problems}.") from None


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader sees the old file or the whole new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def sweep(path: Path) -> None:
    """Remove the temporary files that killed writers of `path` left.

    Only the one process that may write `path` may call this.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{'?' * 8}"):
        leftover.unlink(missing_ok=True)
