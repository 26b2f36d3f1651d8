"""Effective pairs make a vector, and the vectors equal those of the Persona Vectors authors' method."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.support.trait import DEFINITION, QUIET
from traitwatch.vectors import Float32Array
from traitwatch_builder.definitions.elicitation import Elicitation
from traitwatch_builder.models.chat import bare, render, text_ids
from traitwatch_builder.reading.transformers_reader import Reader
from traitwatch_builder.storage.answers import JudgedAnswer
from traitwatch_builder.vectors.extract import ReadUnder, answer_span, extract


@pytest.fixture(scope="module")
def reader(tiny_model: Path) -> Reader:
    return Reader.load(tiny_model)


def test_an_answer_starts_where_its_prompt_ends(reader: Reader) -> None:
    span = answer_span(reader.tokenizer, "<|user|>why?<|end|><|assistant|>", "so")
    assert reader.tokenizer.decode(span.ids[span.start :]) == "so"
    assert reader.tokenizer.decode(span.ids[: span.start]) == "<|user|>why?<|end|><|assistant|>"


def test_an_answer_that_merges_with_its_prompt_has_tokens_of_its_own() -> None:
    class Merging:
        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": [1] if text == "ab" else [ord(c) for c in text]}

    span = answer_span(Merging(), "a", "b")
    assert span.ids[span.start :] == [ord("b")]


def one_at_a_time(model: Any, tokenizer: Any, prompts: list[str], answers: list[str]) -> list[Float32Array]:
    """Return the authors' means over examples: of answer means, of prompt means, and of last prompt states."""
    parts: list[list[torch.Tensor]] = [[], [], []]
    for prompt, answer in zip(prompts, answers, strict=True):
        inputs = tokenizer(prompt + answer, return_tensors="pt", add_special_tokens=False)
        length = len(tokenizer.encode(prompt, add_special_tokens=False))
        with torch.no_grad():
            output = model(input_ids=inputs["input_ids"], output_hidden_states=True)
        states = torch.stack([state[0] for state in output.hidden_states])
        parts[0].append(states[:, length:].mean(1))
        parts[1].append(states[:, :length].mean(1))
        parts[2].append(states[:, length - 1])
    return [torch.stack(part).mean(0).numpy() for part in parts]


@pytest.mark.parametrize("elicit", ["system", "many-shot"])
@pytest.mark.parametrize("read_under", ["prompt", "question"])
def test_the_vectors_are_those_of_the_authors_method(
    tiny_model: Path, reader: Reader, elicit: Any, read_under: ReadUnder
) -> None:
    """Prompt states come from the eliciting prompt; answers are read after that prompt or the bare question."""
    elicitation = Elicitation(DEFINITION, elicit, "bravery")
    tokenizer = reader.tokenizer
    sides: dict[str, list[JudgedAnswer]] = {}
    for polarity in ("pos", "neg"):
        sides[polarity] = [
            JudgedAnswer(
                row.question,
                render(tokenizer, elicitation.prompt(row, polarity)),  # type: ignore[arg-type]
                f"{polarity} {'very ' * (i % 4)}so" if i else "y",
                f"bravery_{row.question_id}_{polarity}_{row.context}",
            )
            for i, row in enumerate(elicitation.rows(DEFINITION.questions, 3))
        ]
    extraction = extract(reader, tokenizer, sides["pos"], sides["neg"], read_under, QUIET)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    expected = {}
    for polarity, rows in sides.items():
        answers, prompts = [row.answer for row in rows], [row.prompt for row in rows]
        under = prompts if read_under == "prompt" else [render(tokenizer, bare(row.question)) for row in rows]
        response, _, _ = one_at_a_time(model, tokenizer, under, answers)
        _, average, last = one_at_a_time(model, tokenizer, prompts, answers)
        expected[polarity] = (response, average, last)
    got = (extraction.vectors.response_avg, extraction.vectors.prompt_avg, extraction.vectors.prompt_last)
    for vector, pos, neg in zip(got, expected["pos"], expected["neg"], strict=True):
        assert vector.dtype == np.float32
        assert vector == pytest.approx(pos - neg, abs=1e-5)
        assert np.linalg.norm(vector[1:], axis=1).min() > 1e-3, "a difference of rounding errors is no vector"


def test_the_evidence_is_of_the_same_pairs(reader: Reader) -> None:
    prompt = render(reader.tokenizer, bare("why?"))
    pos = [JudgedAnswer(f"q{i}?", prompt, f"yes {i}", f"t_{i}_pos_0") for i in range(6)]
    neg = [JudgedAnswer(f"q{i}?", prompt, f"no {i}", f"t_{i}_neg_0") for i in range(6)]
    extraction = extract(reader, reader.tokenizer, pos, neg, "prompt", QUIET)
    assert extraction.evidence.null is not None
    assert extraction.evidence.null.shape[1:] == (4, 16)
    assert extraction.evidence.halves is not None
    assert np.mean(extraction.evidence.halves, axis=0) == pytest.approx(extraction.vectors.response_avg, abs=1e-5)
    assert text_ids(reader.tokenizer, prompt)
