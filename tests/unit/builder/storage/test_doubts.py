"""Scores of another scale, and prompts or a vector of another model, are doubted; those of this model are not."""

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_model import save_tokenizer
from traitwatch.card import Card
from traitwatch.vectors import SHIPPED
from traitwatch_builder.models.chat import render
from traitwatch_builder.storage.answers import JudgedAnswer, read_answers
from traitwatch_builder.storage.doubts import model_doubt, prompts_doubt, scale_doubt

SMOLLM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a "
    "helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}"
    "\n{{ message['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "<bos>{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else 'user' }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}{{ '<start_of_turn>model\n' }}"
)
PATH = Path("a.csv")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def answers(trait: list[float | None], coherence: list[float | None]) -> list[JudgedAnswer]:
    return [JudgedAnswer("q?", "p", "a", "t_0_pos_0", *scores) for scores in zip(trait, coherence, strict=True)]


@pytest.mark.parametrize(
    ("rows", "aspect"),
    [
        (answers([0.9, 0.0], [80, 90]), "2 trait scores lie between 0 and 1, the highest at 0.9"),
        (answers([90, 5], [0.9, 1.0]), "2 coherence scores lie between 0 and 1, the highest at 1"),
        (answers([0.9, None], [None, None]), "1 trait scores"),
    ],
)
def test_scores_from_0_to_1_are_doubted(rows: list[JudgedAnswer], aspect: str) -> None:
    doubt = scale_doubt(rows)
    assert doubt is not None
    assert aspect in doubt
    assert "multiply the scores by 100" in doubt


@pytest.mark.parametrize(
    "rows", [answers([90, 0.4], [80, 0.9]), answers([0, 0], [80, 90]), answers([None], [None]), []]
)
def test_scores_from_0_to_100_are_not_doubted(rows: list[JudgedAnswer]) -> None:
    assert scale_doubt(rows) is None


def elicited(tokenizer: Any, template: str, system: bool) -> list[JudgedAnswer]:
    tokenizer.chat_template = template
    before = [{"role": "system", "content": "Be cruel."}] if system else []
    rows = []
    for question in ("why?", " And when, (if ever) [at all]?\n"):
        prompt = render(tokenizer, [*before, {"role": "user", "content": question}])
        rows.append(JudgedAnswer(question, prompt, "so", "t_0_pos_0"))
    return rows


@pytest.mark.parametrize("system", [True, False])
@pytest.mark.parametrize("template", [SMOLLM, GEMMA, SMOLLM.replace("SmolLM", "{{ strftime_now('%d %b %Y') }}")])
def test_prompts_of_this_template_are_not_doubted(tokenizer: Any, template: str, system: bool) -> None:
    rows = elicited(tokenizer, template, system)
    assert prompts_doubt(tokenizer, "m", PATH, rows) is None
    yesterday = [replace(row, prompt=row.prompt.replace("202", "201")) for row in rows]
    assert prompts_doubt(tokenizer, "m", PATH, yesterday) is None, "the date of another day is no other model"


@pytest.mark.parametrize("system", [True, False])
def test_prompts_of_another_template_are_doubted_with_both_endings(tokenizer: Any, system: bool) -> None:
    rows = elicited(tokenizer, GEMMA, system)
    tokenizer.chat_template = SMOLLM
    doubt = prompts_doubt(tokenizer, "HuggingFaceTB/SmolLM2", PATH, [*elicited(tokenizer, SMOLLM, system), *rows])
    assert doubt is not None
    assert "2 of 4 prompts in a.csv are not what the chat template of HuggingFaceTB/SmolLM2 makes" in doubt
    assert r"ends in '<end_of_turn>\n<start_of_turn>model\n'" in doubt
    assert r"the template in '<|im_end|>\n<|im_start|>assistant\n'" in doubt


def test_prompts_without_their_question_are_doubted(tokenizer: Any) -> None:
    rows = [replace(row, question="another") for row in elicited(tokenizer, SMOLLM, system=False)]
    assert prompts_doubt(tokenizer, "m", PATH, rows) is not None
    assert prompts_doubt(tokenizer, "m", PATH, [replace(rows[0], question="", prompt="plain")]) is not None


def test_no_shipped_answer_is_doubted(tokenizer: Any) -> None:
    tokenizer.chat_template = SMOLLM
    (model,) = (directory for directory in SHIPPED.iterdir() if directory.is_dir())
    rows = [row for kind in ("pos", "eval_neg") for row in read_answers(model / f"deception_{kind}.csv", "deception")]
    assert rows
    assert prompts_doubt(tokenizer, "m", PATH, rows) is None
    assert scale_doubt(rows) is None


def test_a_vector_of_another_model_is_doubted() -> None:
    card = Card(
        trait="t", model="HuggingFaceTB/SmolLM2", hidden_size=4, num_layers=2, sha256="0" * 64, date=date.today()
    )
    assert model_doubt(card, "HuggingFaceTB/SmolLM2") is None
    assert model_doubt(card, "somebody/smollm2") is None, "a copy has the name"
    doubt = model_doubt(card, "Qwen/Qwen2.5-0.5B")
    assert doubt is not None
    assert "was built on HuggingFaceTB/SmolLM2, and Qwen/Qwen2.5-0.5B is another model by its name" in doubt
