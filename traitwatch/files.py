"""Reads files and checks them; writes files whole or not at all.

What the system refuses to read or to write becomes an `ArtifactError` with the file's name (`reading`, `writing`).
`decoded` makes text of a file's bytes: it takes UTF-8, and names what a file is that holds no such text.
"""

import codecs
import errno
import glob
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from traitwatch.errors import ArtifactError

ModelT = TypeVar("ModelT", bound=BaseModel)
Place = tuple[int | str, ...]
"""Where a problem is in a JSON document: keys and indices."""

_BOMS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
# How the content of a file begins, and what it is then.
_KINDS = (
    (b"version https://git-lfs.", "a pointer of Git LFS, not the file itself: run `git lfs pull`"),
    (b"PK\x03\x04", "a ZIP archive, such as an Excel workbook: save its content as text"),
    (b"\x1f\x8b", "compressed with gzip: unpack it, or let its name end in .gz"),
    (b"<!doctype html", "an HTML page: download the file itself"),
    (b"<html", "an HTML page: download the file itself"),
    (b"%PDF", "a PDF document: save its content as text"),
    (b"\x80\x02", "a pickle: save its content as text"),
    (b"\x93NUMPY", "a NumPy array: save its content as text"),
)
_ADVICE = {
    errno.ENOSPC: "free some space, or choose another directory",
    errno.EDQUOT: "free some space, or choose another directory",
    errno.EACCES: "give this user the right to it, or choose another path",
    errno.EPERM: "give this user the right to it, or choose another path",
    errno.EROFS: "choose another directory",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its links lead in a circle; choose another path",
    errno.EISDIR: "give the path of a file",
}
# Places that are listed for one problem before the rest is only counted.
_LISTED = 3


def trouble(path: Path | str, error: OSError, done: str) -> str:
    """Say what the system refused and what to do, in one sentence.

    Args:
        path: the file.
        error: the system's error.
        done: what could not be done, `read` or `written`.
    """
    if isinstance(error, FileNotFoundError) and done == "read":
        return f"{path}: no such file."
    # A directory cannot be made where a file is.
    reason = "Not a directory" if error.errno == errno.EEXIST else error.strerror or str(error)
    return f"{path} cannot be {done}: {reason}; {_ADVICE.get(error.errno or 0, 'choose another path')}."


@contextmanager
def _refused(path: Path, done: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactError(trouble(path, error, done)) from None


def reading(path: Path) -> AbstractContextManager[None]:
    """Turn the system's errors in a `with` block that reads `path` into an `ArtifactError`."""
    return _refused(path, "read")


def writing(path: Path) -> AbstractContextManager[None]:
    """Turn the system's errors in a `with` block that writes `path` into an `ArtifactError`."""
    return _refused(path, "written")


def read_bytes(path: Path) -> bytes:
    """Return the content of a file; raise `ArtifactError` where the system does not let us read it."""
    with reading(path):
        return path.read_bytes()


def kind_of(data: bytes) -> str | None:
    """Say what a file is that begins like a well-known kind of file without text, and what to do; None for others."""
    start = data[:64].lstrip() if data[:1].isspace() else data[:64]
    return next((kind for magic, kind in _KINDS if start.startswith(magic) or start.lower().startswith(magic)), None)


def decoded(data: bytes, source: str) -> str:
    """Return UTF-8 text, without a byte order mark.

    Args:
        data: the content of a file.
        source: what the data are of, for the error message.

    Raises:
        ArtifactError: the data are no UTF-8 text; the message names the encoding or the kind of file, and the line.
    """
    kind = kind_of(data)
    if kind is not None:
        raise ArtifactError(f"{source} is {kind}.")
    encoding = next((name for bom, name in _BOMS if data.startswith(bom)), None)
    # ASCII characters in UTF-16 have a zero in every second byte.
    if encoding is None and len(data) >= 4 and (not any(data[1:64:2]) or not any(data[0:64:2])):
        encoding = "UTF-16"
    if encoding is not None:
        raise ArtifactError(f"{source} is {encoding} text, not UTF-8 text: save it as UTF-8.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start : error.start + 1]
        as_cp1252 = byte.decode("cp1252", "replace")
        meant = "" if as_cp1252 == "\ufffd" else f" (in Windows-1252 it is {as_cp1252!r})"
        raise ArtifactError(
            f"{source} is not UTF-8 text: line {line} has the byte 0x{byte.hex()}{meant}. Save it as UTF-8."
        ) from None


def read_json(path: Path, kind: type[ModelT]) -> ModelT:
    """Read the JSON file `path` as a `kind`, or raise `ArtifactError` with every problem and its place."""
    text = decoded(read_bytes(path), str(path))
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        problems = [(e["loc"], e["msg"]) for e in error.errors(include_url=False)]
        lines = listed(problems, lambda place: ".".join(map(str, place)) or "the file")
        raise ArtifactError(f"{path} is not a valid {kind.__name__}: {'; '.join(lines)}.") from None


def listed(problems: Iterable[tuple[Place, str]], name: Callable[[Place], str]) -> list[str]:
    """Return a line for each problem; one line where many items of a list have the same problem.

    Args:
        problems: the place of each problem, and what it is.
        name: names a place.
    """
    groups: dict[tuple[Place, str], list[Place]] = {}
    for place, message in problems:
        alike = tuple("" if isinstance(part, int) else part for part in place)
        groups.setdefault((alike, message), []).append(place)
    lines = []
    for (_, message), places in groups.items():
        if len(places) <= _LISTED:
            lines += [f"{name(place)}: {message}" for place in places]
        else:
            shown = ", ".join(map(name, places[:_LISTED]))
            lines.append(f"{shown} and {len(places) - _LISTED} more: {message}")
    return lines


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader sees the old file or the whole new one, never a part.

    Raises:
        ArtifactError: the system does not let us write it, or `path` is a device or a pipe, which a file must not
            replace.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ArtifactError(f"{path} cannot be written: it is a device or a pipe; give the path of a file.")
        _replace(path, content)


def _replace(path: Path, content: bytes) -> None:
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
