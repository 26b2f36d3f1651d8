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
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.models.chat import bare, render, text_ids
from traitwatch_builder.reading.transformers_reader import Reader
from traitwatch_builder.storage.answers import JudgedAnswer
from traitwatch_builder.vectors.extract import ReadUnder, answer_span, effective_pairs, extract, few_pairs_warning


@pytest.fixture(scope="module")
def reader(tiny_model: Path) -> Reader:
    return Reader.load(tiny_model)


def scored(*scores: tuple[float | None, float | None], answer: str = "x") -> list[JudgedAnswer]:
    return [JudgedAnswer("q?", "p", answer, "t_0_pos_0", trait, coherence) for trait, coherence in scores]


def test_a_pair_is_effective_when_both_answers_meet_the_thresholds() -> None:
    pos = scored((90, 80), (49, 80), (90, 80), (90, 49), (90, 80), (50, 50))
    neg = scored((10, 80), (10, 80), (50, 80), (10, 80), (10, 49), (49, 50))
    assert effective_pairs(pos, neg) == [0, 5]
    assert effective_pairs(pos, neg, threshold=40) == [0, 1, 2, 5]
    assert effective_pairs(pos, neg, coherence=40) == [0, 3, 4, 5]


@pytest.mark.parametrize("scores", [(None, 80), (90, None), (None, None)])
def test_a_score_that_the_judge_refused_drops_the_pair(scores: tuple[float | None, float | None]) -> None:
    pos = [*scored((90, 80)), *scored(scores)]
    neg = [*scored((10, 80)), *scored((10, 80))]
    assert effective_pairs(pos, neg) == [0]
    neg_refused = [*scored((10, 80)), *scored((None if scores[0] is None else 10, scores[1]))]
    assert effective_pairs(scored((90, 80), (90, 80)), neg_refused) == [0]


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_answer_makes_no_pair_whatever_coherence_is_asked_for(empty: str) -> None:
    pos = [*scored((90, 80)), *scored((90, 0), answer=empty)]
    assert effective_pairs(pos, scored((10, 80), (10, 80)), coherence=0) == [0]


def test_no_effective_pair_is_an_error_that_names_the_counts_and_the_remedy() -> None:
    with pytest.raises(PipelineError) as caught:
        effective_pairs(scored((10, 80), (90, 80)), scored((10, 80), (90, 80)))
    for part in ("no effective pair among 2", "1 positive answers score 50 or more", "1 negative ones score below 50"):
        assert part in str(caught.value)
    with pytest.raises(PipelineError, match=r"do not show the trait: use --elicit many-shot.*answers files stay"):
        effective_pairs(scored((10, 80)), scored((10, 80)))
    with pytest.raises(PipelineError, match=r"lost to coherence: lower --temperature"):
        effective_pairs(scored((90, 10)), scored((10, 80)))
    with pytest.raises(PipelineError, match=r"negative answers show the trait too"):
        effective_pairs(scored((90, 80)), scored((90, 80)))


def test_the_warning_of_few_pairs_names_the_counts_and_the_remedy() -> None:
    pos, neg = scored(*[(90, 80)] * 49, *[(10, 80)] * 30), scored(*[(10, 80)] * 79)
    warning = few_pairs_warning(pos, neg, 49, 50, 50)
    assert warning is not None
    assert "only 49 of 79 pairs" in warning
    assert "49 positive answers score 50 or more" in warning
    assert "--n-per-question" in warning
    assert few_pairs_warning(pos, neg, 50, 50, 50) is None


def test_files_that_do_not_pair_up_are_refused() -> None:
    with pytest.raises(PipelineError, match="2 positive answers and 1 negative ones"):
        effective_pairs(scored((90, 80), (90, 80)), scored((10, 80)))


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
