"""CSV files of texts, plain or compressed: how the builder reads and writes them.

The reader takes one form only: UTF-8, fields separated by commas, a quote in a text doubled, and as many fields in each
row as in the first. A file of another form could be read in two ways, and the wrong one would pass for answers. So the
reader refuses such a file, and names the separator, the encoding, the column or the row.
"""

import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from traitwatch.errors import ArtifactError
from traitwatch.files import decoded, read_bytes, write_atomically

_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
# The line by which Excel finds the separator.
_EXCEL_LINE = re.compile(r'"?sep=(.)"?\s*[\r\n]', re.IGNORECASE)
# Characters of a field. Python's limit is 131,072; a prompt of many examples may be longer.
_FIELD_LIMIT = 2**31 - 1
_SHOWN_COLUMNS = 12


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV file, whole or not at all; compress the file if `path` ends in `.gz`."""
    # All texts are quoted: Python's default leaves a text with a lone carriage return unquoted, which ends the row.
    content = table.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).encode()
    write_atomically(path, compressed(content) if path.suffix == ".gz" else content)


def compressed(content: bytes) -> bytes:
    """Compress `content` to gzip data that depends on `content` alone: the header has no time and no file name."""
    return gzip.compress(content, compresslevel=9, mtime=0)


def table_file(path: Path) -> Path:
    """Return the file that holds the table `path`: `path` itself, or `<path>.gz` if only the second file exists.

    A build writes plain CSV files. The shipped answers are compressed: their prompts repeat the same examples.
    """
    gz = path.with_name(f"{path.name}.gz")
    return gz if gz.is_file() and not path.exists() else path


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV file of texts. Every cell stays a text; no cell counts as a missing value.

    Args:
        path: the file, or the name of a file that exists only as `<path>.gz`.
        columns: the columns that the file must have.

    Raises:
        ArtifactError: the file does not exist or is not CSV as the module's docstring has it, or one of `columns` is
            missing.
    """
    file = table_file(path)
    data = _stored(file)
    try:
        text = decoded(_unpacked(data) if file.suffix == ".gz" else data, "it")
        rows = _rows(text)
        _, header = next(rows, (0, []))
        _check_header(header, columns, text)
        return _table(header, rows)
    except ArtifactError as error:
        raise ArtifactError(f"{path} is not a CSV file of answers: {error}") from None


def _stored(file: Path) -> bytes:
    if file.exists() and not file.is_file() and not file.is_dir():
        # A pipe can be read once, and a step reads its answers twice: for the texts, and for their fingerprint.
        raise ArtifactError(f"{file} is a pipe or a device, which can be read once only; save the answers in a file.")
    return read_bytes(file)


def _unpacked(data: bytes) -> bytes:
    """Return the content of a file whose name ends in `.gz`."""
    if data and not data.startswith(b"\x1f\x8b"):
        raise ArtifactError("its name ends in .gz, but it is not compressed with gzip; rename or compress it.")
    try:
        return gzip.decompress(data)
    except EOFError:
        raise ArtifactError(f"it is cut off ({len(data)} bytes are left); copy it again.") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ArtifactError(f"it is damaged ({error}); copy it again.") from None


def _rows(text: str, separator: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV text, without empty lines: the line where a row begins, from 1, and its fields."""
    with _long_fields():
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        number, line = 0, 1
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise ArtifactError(f"{_row_name(number, line)} {_fault(error)}") from None
            if fields:
                yield line, fields
                number += 1
            line = reader.line_num + 1


@contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(_FIELD_LIMIT)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _row_name(number: int, line: int) -> str:
    return f"row {number} (line {line})" if number else f"the header (line {line})"


def _fault(error: csv.Error) -> str:
    if "end of data" in str(error):
        return "has a text whose quote never ends: the file is cut off, or a quote is missing."
    if "expected after" in str(error):
        return 'has a text that goes on after its quote: write a quote in a text as two quotes (""), not as \\".'
    return f"cannot be read ({error})."


def _check_header(header: Sequence[str], columns: Sequence[str], text: str) -> None:
    if not header:
        raise ArtifactError("it is empty.")
    excel = _EXCEL_LINE.match(text)
    if excel:
        raise ArtifactError(
            f"it begins with Excel's line 'sep={excel[1]}': remove this line, and separate the fields by commas."
        )
    twice = [repr(name) for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise ArtifactError(f"it has the column {', '.join(twice)} more than once; remove the others.")
    missing = [column for column in columns if column not in header]
    if not missing:
        return
    for separator, name in _SEPARATORS.items():
        if set(columns) <= set(text.splitlines()[0].replace('"', "").split(separator)):
            raise ArtifactError(f"its fields are separated by {name}; separate them by commas.")
    has = ", ".join(map(repr, header[:_SHOWN_COLUMNS])) + (", ..." if len(header) > _SHOWN_COLUMNS else "")
    raise ArtifactError(
        f"it lacks the column {', '.join(missing)}; it needs {', '.join(columns)}, and has {has[:500]}."
    )


def _table(header: list[str], rows: Iterator[tuple[int, list[str]]]) -> pd.DataFrame:
    """Return the rows as a table; raise `ArtifactError` where a row is shorter or longer than the header."""
    cells: list[list[str]] = []
    for line, fields in rows:
        if len(fields) != len(header):
            raise ArtifactError(
                f"{_row_name(len(cells) + 1, line)} has {len(fields)} fields, where the header has {len(header)}: a "
                "separator or a quote is missing or too many, or the file is cut off there."
            )
        cells.append(fields)
    # Spreadsheets write columns without a name and without content.
    kept = [i for i, name in enumerate(header) if name or any(row[i] for row in cells)]
    if sum(not header[i] for i in kept) > 1:
        raise ArtifactError("several of its columns have no name; name or remove them.")
    return pd.DataFrame([[row[i] for i in kept] for row in cells], columns=[header[i] for i in kept], dtype=str)
