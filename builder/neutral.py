"""Neutral prompts, and `neutral.csv`: the answers to them, on which vectors are calibrated."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from pydantic import BaseModel, Field

from builder.errors import ArtifactError
from builder.files import read_json, write_atomically

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
    table = pd.DataFrame([asdict(row) for row in rows])
    write_atomically(path, table.to_csv(index=False, lineterminator="\n").encode())


def read_neutral(path: Path) -> list[NeutralAnswer]:
    """Read `neutral.csv`; `finished` may be missing, and then every answer counts as cut off.

    Raises:
        ArtifactError: no such file, or a column is missing.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; `traitwatch calibrate` makes it.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is not a CSV file of answers: {error}") from None
    columns = ("question", "prompt", "answer", "question_id")
    missing = [column for column in columns if column not in table]
    if missing:
        raise ArtifactError(f"{path} lacks the column {', '.join(missing)}.")
    finished = table["finished"] == "True" if "finished" in table else [False] * len(table)
    return [
        NeutralAnswer(question, prompt, answer, question_id, bool(end))
        for question, prompt, answer, question_id, end in zip(
            *(table[column] for column in columns), finished, strict=True
        )
    ]
