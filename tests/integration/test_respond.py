"""Answers come from an own engine or from a server, to the same conversations, and are kept for the next run."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.serving import Server, traitwatch
from traitwatch_builder.storage.answers import JudgedAnswer, read_answers

pytestmark = pytest.mark.engine

QUESTIONS = 20


def respond(model: Path, out: Path, *options: str) -> tuple[list[JudgedAnswer], str]:
    """Run `traitwatch respond` for the negative condition; return the rows of its file, and what it said."""
    command = traitwatch(
        "respond", "paternalism", "--polarity", "neg", "--n-per-question", "1", "--elicit", "many-shot",
        "--max-tokens", "12", "--temperature", "0.7", "--top-p", "0.9", "--model", model, "--out", out, *options,
    )  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr
    return read_answers(out / model.name / "paternalism_neg.csv", "paternalism"), done.stderr


def test_an_own_engine_and_a_server_answer_the_same_conversations(model: Path, eager: Server, tmp_path: Path) -> None:
    own, _ = respond(model, tmp_path / "own")
    served, said = respond(model, tmp_path / "served", "--endpoint", eager.url)
    for rows in (own, served):
        assert len(rows) == QUESTIONS
        assert all(row.answer for row in rows)
        assert all(row.trait is None for row in rows)
        assert [row.context for row in rows] == [i % 4 for i in range(QUESTIONS)]
    assert [(row.question, row.prompt, row.question_id) for row in own] == [
        (row.question, row.prompt, row.question_id) for row in served
    ]
    assert own[0].prompt.endswith("<|im_start|>assistant\n")
    assert "20 calls" in " ".join(said.split())

    again, said = respond(model, tmp_path / "own")
    assert again == own
    assert "All answers are there from an earlier run: neg." in " ".join(said.split())
