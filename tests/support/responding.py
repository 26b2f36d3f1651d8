"""Runs `traitwatch respond` for the negative condition, and checks its file."""

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer

from traitwatch_builder.definitions.definition import SHIPPED_DEFINITIONS, load_definition
from traitwatch_builder.definitions.elicitation import Elicitation
from traitwatch_builder.models.chat import render
from traitwatch_builder.storage.answers import JudgedAnswer, read_answers

NUM_CONTEXTS = 4
QUESTIONS = 20
KEPT = "All answers are there from an earlier run: neg."


def arguments(model: Path, out: Path, *options: str) -> list[str]:
    """Return the arguments of `traitwatch`. `options` follow the arguments of every run."""
    return [
        "respond", "paternalism", "--polarity", "neg", "--n-per-question", "1", "--elicit", "many-shot",
        "--max-tokens", "12", "--temperature", "0.7", "--top-p", "0.9", "--model", str(model), "--out", str(out),
        *options,
    ]  # fmt: skip


def answers(model: Path, out: Path) -> list[JudgedAnswer]:
    """Return the rows of the file that `traitwatch respond` has written."""
    return read_answers(out / model.name / "paternalism_neg.csv", "paternalism")


def check_conversations(rows: Sequence[JudgedAnswer], model: Path) -> None:
    """Assert that each question has an answer in the conversation of the definition."""
    definition = load_definition(SHIPPED_DEFINITIONS / "trait_data_extract" / "paternalism.json")
    elicitation = Elicitation(definition, "many-shot", "paternalism")
    tokenizer = AutoTokenizer.from_pretrained(model)
    expected = elicitation.rows(definition.questions, samples=1)
    assert len(rows) == len(expected) == QUESTIONS
    for number, (row, wanted) in enumerate(zip(rows, expected, strict=True)):
        assert row.answer
        assert row.trait is None
        assert row.context == wanted.context == number % NUM_CONTEXTS
        assert row.question == wanted.question
        assert row.question_id == f"paternalism_{number}_neg_{wanted.context}"
        assert row.prompt == render(tokenizer, elicitation.prompt(wanted, "neg"))
        assert row.prompt.endswith("<|im_start|>assistant\n")
