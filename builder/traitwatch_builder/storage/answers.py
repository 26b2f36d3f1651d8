"""Files of answers and of neutral prompts: how the builder reads and writes them.

- A file of judged answers (`JudgedAnswer`) is a CSV file with the columns of the Persona Vectors authors' code:
  `question, prompt, answer, question_id, <trait>, coherence`, in that order. An empty score means that no judge gave a
  score. Row i of `<trait>_pos.csv` and row i of `<trait>_neg.csv` are a pair.
- A file of neutral prompts (`NeutralPrompts`) is a JSON file: `{"prompts": [...]}`.
- The file of neutral answers, `neutral.csv` (`NeutralAnswer`), has the columns
  `question, prompt, answer, question_id, finished`.

In both kinds of CSV file `prompt` is the conversation as the model's chat template renders it, up to the start of the
answer. The builder reads the hidden states of the text `prompt + answer`.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from pydantic import BaseModel, Field, model_validator

from traitwatch.errors import ArtifactError
from traitwatch.files import read_json
from traitwatch_builder.definitions.texts import damage
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.storage.tables import read_table, write_table

TEXT_COLUMNS = ("question", "prompt", "answer", "question_id")
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class JudgedAnswer:
    """One row of a file of judged answers.

    Attributes:
        question: the question.
        prompt: the rendered conversation up to the answer, special tokens included.
        answer: the answer, without the end token.
        question_id: `<trait>_<number of the question>_<pos or neg>_<context>`; any text in files of other programs.
        trait: the judge's trait score, 0 to 100; None without a score.
        coherence: the judge's coherence score, 0 to 100; None without a score.
    """

    question: str
    prompt: str
    answer: str
    question_id: str
    trait: float | None = None
    coherence: float | None = None

    @property
    def context(self) -> int | None:
        """The number of the instruction pair or group of examples that elicited the answer; None if the id has none."""
        match = re.fullmatch(r".*_(?:pos|neg)_(\d+)", self.question_id)
        return int(match[1]) if match else None


def clean_text(text: str) -> str:
    """Return `text` with lone surrogates replaced. UTF-8 cannot hold them; the result is readable for any program."""
    return _SURROGATES.sub("\ufffd", text)


def write_answers(path: Path, trait: str, rows: Iterable[JudgedAnswer]) -> None:
    """Write a file of judged answers, whole or not at all.

    `read_answers` returns newlines, quotes, NUL characters and empty answers unchanged.
    """
    rows = list(rows)
    table = pd.DataFrame({column: [getattr(row, column) for row in rows] for column in TEXT_COLUMNS})
    _set_scores(table, trait, rows)
    write_table(path, table)


def write_scores(path: Path, trait: str, rows: Sequence[JudgedAnswer]) -> None:
    """Write the scores of `rows` into the file of judged answers that the rows come from.

    Columns other than the six stay in the file, after the six.
    """
    table = read_table(path, TEXT_COLUMNS)
    _set_scores(table, trait, rows)
    ours = [*TEXT_COLUMNS, trait, "coherence"]
    write_table(path, table[[*ours, *(column for column in table if column not in ours)]])


def _set_scores(table: pd.DataFrame, trait: str, rows: Sequence[JudgedAnswer]) -> None:
    table[trait] = pd.Series([row.trait for row in rows], dtype="float64")
    table["coherence"] = pd.Series([row.coherence for row in rows], dtype="float64")


def check_any(path: Path, rows: Sequence[JudgedAnswer]) -> None:
    """Refuse a file of answers without answers, with a `PipelineError`: it looks like one that is judged already."""
    if not rows:
        raise PipelineError(f"{path} has no answers, only the names of its columns; give a file of answers.")


def read_answers(path: Path, trait: str) -> list[JudgedAnswer]:
    """Read a file of judged answers, from Traitwatch or from the authors' code.

    Args:
        path: the CSV file.
        trait: the name of the column with the trait scores. This column and `coherence` may be missing.

    Raises:
        ArtifactError: the file does not exist or is not CSV, a text column is missing, or a score is not a number from
            0 to 100.
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
        # pandas, Python and spreadsheets write these texts for "no score".
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
    """A file of neutral prompts, `{"prompts": [...]}`."""

    prompts: list[str] = Field(min_length=1)

    @model_validator(mode="after")
    def _usable(self) -> "NeutralPrompts":
        """Refuse what would count as a prompt and is none, or one prompt that would count as several."""
        first: dict[str, int] = {}
        for number, prompt in enumerate(self.prompts, start=1):
            fault = damage(prompt)
            if fault is not None:
                raise ValueError(f"prompt {number} {fault}")
            if first.setdefault(prompt.strip(), number) != number:
                raise ValueError(f"prompt {number} is prompt {first[prompt.strip()]} again; remove one of the two")
        return self


@dataclass(frozen=True)
class NeutralAnswer:
    """One row of `neutral.csv`.

    Attributes:
        question: the neutral prompt.
        prompt: the conversation as the model's chat template renders it.
        answer: the answer; may be empty.
        question_id: an id that no other prompt has.
        finished: whether the answer ended by itself. The last token of an answer that was cut off has no hidden state.
    """

    question: str
    prompt: str
    answer: str
    question_id: str
    finished: bool


def load_neutral_prompts(path: Path) -> list[str]:
    """Read a file of neutral prompts, `{"prompts": [...]}`."""
    try:
        return read_json(path, NeutralPrompts).prompts
    except ArtifactError as error:
        raise ArtifactError(f'{error} A file of neutral prompts is {{"prompts": ["...", "..."]}}.') from None


def write_neutral(path: Path, rows: Sequence[NeutralAnswer]) -> None:
    """Write `neutral.csv`."""
    write_table(path, pd.DataFrame([asdict(row) for row in rows]))


def read_neutral(path: Path) -> list[NeutralAnswer]:
    """Read `neutral.csv`. If the column `finished` is missing, every answer counts as cut off.

    Raises:
        ArtifactError: the file does not exist or is not CSV, or a text column is missing.
    """
    table = read_table(path, TEXT_COLUMNS)
    finished = table["finished"] == "True" if "finished" in table else [False] * len(table)
    return [
        NeutralAnswer(question, prompt, answer, question_id, bool(end))
        for question, prompt, answer, question_id, end in zip(
            *(table[column] for column in TEXT_COLUMNS), finished, strict=True
        )
    ]
