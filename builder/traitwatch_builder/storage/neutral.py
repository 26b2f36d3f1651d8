"""Neutral prompts, and `neutral.csv`: the answers to them, on which vectors are calibrated."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from pydantic import BaseModel, Field

from traitwatch.files import read_json
from traitwatch_builder.storage.answers import TEXT_COLUMNS, read_table, write_table

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
