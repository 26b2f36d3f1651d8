"""Answers on disk: CSV files in the columns of the Persona Vectors authors' code.

`question, prompt, answer, question_id, <trait>, coherence`, in that order. `prompt` is the conversation as the model's
chat template renders it, up to where the answer begins: `prompt + answer` is the text whose hidden states are read.
An empty score is one that nobody gave. Row i of `<trait>_pos.csv` and row i of `<trait>_neg.csv` are a pair.
"""

import csv
import gzip
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from pydantic import BaseModel, Field

from traitwatch.errors import ArtifactError
from traitwatch.files import read_json, write_atomically

TEXT_COLUMNS = ("question", "prompt", "answer", "question_id")
_DAMAGED_GZIP = (gzip.BadGzipFile, zlib.error, EOFError)
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class JudgedAnswer:
    """One row of an answers file.

    Attributes:
        question: the question.
        prompt: the rendered conversation up to the answer, special tokens included.
        answer: the answer, without the end token.
        question_id: `<trait>_<number of the question>_<pos or neg>_<context>`; files made elsewhere may say anything.
        trait: the judge's trait score, 0 to 100; None where there is none.
        coherence: the judge's coherence, 0 to 100; None where there is none.
    """

    question: str
    prompt: str
    answer: str
    question_id: str
    trait: float | None = None
    coherence: float | None = None

    @property
    def context(self) -> int | None:
        """The instruction pair or group of examples that elicited the answer, where the id tells."""
        match = re.fullmatch(r".*_(?:pos|neg)_(\d+)", self.question_id)
        return int(match[1]) if match else None


def clean_text(text: str) -> str:
    """Return `text` with what UTF-8 cannot hold (lone surrogates) replaced, so that any reader can read it back."""
    return _SURROGATES.sub("\ufffd", text)


def write_answers(path: Path, trait: str, rows: Iterable[JudgedAnswer]) -> None:
    """Write an answers file, whole or not at all; newlines, quotes, NUL and empty answers come back as they were."""
    rows = list(rows)
    table = pd.DataFrame({column: [getattr(row, column) for row in rows] for column in TEXT_COLUMNS})
    _set_scores(table, trait, rows)
    write_table(path, table)


def write_scores(path: Path, trait: str, rows: Sequence[JudgedAnswer]) -> None:
    """Put scores into the answers file that the rows were read from; columns that are not ours stay, behind the six."""
    table = read_table(path, TEXT_COLUMNS)
    _set_scores(table, trait, rows)
    ours = [*TEXT_COLUMNS, trait, "coherence"]
    write_table(path, table[[*ours, *(column for column in table if column not in ours)]])


def _set_scores(table: pd.DataFrame, trait: str, rows: Sequence[JudgedAnswer]) -> None:
    table[trait] = pd.Series([row.trait for row in rows], dtype="float64")
    table["coherence"] = pd.Series([row.coherence for row in rows], dtype="float64")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV file, whole or not at all; compress it where `path` ends in `.gz`."""
    # All texts are quoted: Python leaves one with a lone carriage return bare, which then ends the row.
    content = table.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).encode()
    write_atomically(path, compressed(content) if path.suffix == ".gz" else content)


def compressed(content: bytes) -> bytes:
    """Return `content` as gzip data that depends on `content` alone: the header has no time and no file name."""
    return gzip.compress(content, compresslevel=9, mtime=0)


def table_file(path: Path) -> Path:
    """Return the file that holds the table `path`: `path` itself, or `<path>.gz` where only that one exists.

    A build writes plain CSV files. The shipped answers are compressed: their prompts repeat the same examples.
    """
    gz = path.with_name(f"{path.name}.gz")
    return gz if gz.is_file() and not path.exists() else path


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV file of texts, nothing in it taken for a missing value.

    Args:
        path: the file, or the name of a file that only exists as `<path>.gz`.
        columns: the columns that the file must have.

    Raises:
        ArtifactError: no such file, no CSV, or one of `columns` is missing.
    """
    try:
        table = pd.read_csv(table_file(path), dtype=str, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, *_DAMAGED_GZIP) as error:
        raise ArtifactError(f"{path} is not a CSV file of answers: {error}") from None
    missing = [column for column in columns if column not in table]
    if missing:
        raise ArtifactError(f"{path} lacks the column {', '.join(missing)}; it needs {', '.join(columns)}.")
    return table


def read_answers(path: Path, trait: str) -> list[JudgedAnswer]:
    """Read an answers file of ours or of the authors'.

    Args:
        path: the CSV.
        trait: the name of the column with the trait scores; it and `coherence` may be missing.

    Raises:
        ArtifactError: no such file, a text column is missing, or a score is not a number from 0 to 100.
    """
    table = read_table(path, TEXT_COLUMNS)
    trait_scores, coherence = (_scores(path, table, column) for column in (trait, "coherence"))
    columns = (*(table[column] for column in TEXT_COLUMNS), trait_scores, coherence)
    return [JudgedAnswer(*row) for row in zip(*columns, strict=True)]


def _scores(path: Path, table: pd.DataFrame, column: str) -> Sequence[float | None]:
    if column not in table:
        return [None] * len(table)
    scores: list[float | None] = []
    for number, text in enumerate(table[column]):
        # What pandas, Python and spreadsheets write for "no score".
        if text.strip().lower() in ("", "nan", "none", "null"):
            scores.append(None)
            continue
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 100:
            raise ArtifactError(f"{path}, row {number + 1}: {column} is {text!r}, not a number from 0 to 100.")
        scores.append(value)
    return scores


LEAST_PROMPTS = 100


class NeutralPrompts(BaseModel):
    """A file of neutral prompts."""

    prompts: list[str] = Field(min_length=1)


@dataclass(frozen=True)
class NeutralAnswer:
    """One row of `neutral.csv`.

    Attributes:
        question: the neutral prompt.
        prompt: the conversation as the model's chat template renders it.
        answer: the answer; may be empty.
        question_id: tells the prompt from others.
        finished: whether the answer ended by itself; of one that was cut off the last token has no state.
    """

    question: str
    prompt: str
    answer: str
    question_id: str
    finished: bool


def load_neutral_prompts(path: Path) -> list[str]:
    """Read a file of neutral prompts, `{"prompts": [...]}`."""
    return read_json(path, NeutralPrompts).prompts


def write_neutral(path: Path, rows: Sequence[NeutralAnswer]) -> None:
    """Write `neutral.csv`."""
    write_table(path, pd.DataFrame([asdict(row) for row in rows]))


def read_neutral(path: Path) -> list[NeutralAnswer]:
    """Read `neutral.csv`; `finished` may be missing, and then every answer counts as cut off.

    Raises:
        ArtifactError: no such file, or a column is missing.
    """
    table = read_table(path, TEXT_COLUMNS)
    finished = table["finished"] == "True" if "finished" in table else [False] * len(table)
    return [
        NeutralAnswer(question, prompt, answer, question_id, bool(end))
        for question, prompt, answer, question_id, end in zip(
            *(table[column] for column in TEXT_COLUMNS), finished, strict=True
        )
    ]
