"""What a prompt's states are, and that the three vectors mean something however the answers were read."""

from typing import Any

import numpy as np
import pytest
import torch

from builder.conversation import Elicitation, bare
from builder.errors import PipelineError
from builder.extract import JudgedAnswer, difference, effective_pairs, read_states
from builder.reader import Reader, shared_prefix
from tests.unit.test_builder import DEFINITION, nothing, reader

__all__ = ["reader"]


def plain_states(reader: Reader, tokens: list[int]) -> Any:
    output = reader._model(torch.tensor([tokens]), output_hidden_states=True)
    return torch.stack([state[0] for state in output.hidden_states]).detach().numpy()


@pytest.mark.parametrize("prompts", [[[1, 2, 3, 4], [1, 2, 3, 9, 9, 9, 7], [1, 2, 5]], [[3, 4], [5, 6, 7]], [[8, 9]]])
def test_prompt_states_with_a_shared_opening_are_those_without(reader: Reader, prompts: list[list[int]]) -> None:
    read = reader.prompt_states(shared_prefix(prompts), prompts, nothing, batch_size=2)
    for prompt, (mean, last) in zip(prompts, read, strict=True):
        states = plain_states(reader, prompt)
        assert mean == pytest.approx(states.mean(1), abs=1e-5)
        assert last == pytest.approx(states[:, -1], abs=1e-5)


@pytest.mark.parametrize("elicit", ["system", "many-shot"])
@pytest.mark.parametrize("read_under", ["prompt", "question"])
def test_prompts_are_read_as_they_elicited_and_answers_as_asked(reader: Reader, elicit: Any, read_under: Any) -> None:
    elicitation = Elicitation(DEFINITION, elicit, "bravery")
    rows = elicitation.rows(["why?", "how?"], 3)
    answers = [f"answer {i}" for i in range(len(rows))]
    got = read_states(reader, elicitation, rows, answers, "pos", read_under, nothing)
    for row, answer, state in zip(rows, answers, got, strict=True):
        prompt = reader.token_ids(elicitation.prompt(row, "pos"))
        before = prompt if read_under == "prompt" else reader.token_ids(bare(row.question))
        after = plain_states(reader, [*before, *reader.tokenizer(answer)["input_ids"]])[:, len(before) :]
        assert state.response_avg == pytest.approx(after.mean(1), abs=1e-4)
        assert state.prompt_avg == pytest.approx(plain_states(reader, prompt).mean(1), abs=1e-4)
        assert state.prompt_last == pytest.approx(plain_states(reader, prompt)[:, -1], abs=1e-4)


@pytest.mark.parametrize("read_under", ["prompt", "question"])
def test_the_prompt_vectors_are_not_rounding_error(reader: Reader, read_under: Any) -> None:
    elicitation = Elicitation(DEFINITION, "many-shot", "bravery")
    rows = elicitation.rows(["why?", "how?"], 2)
    pos, neg = (
        read_states(reader, elicitation, rows, ["so it is"] * len(rows), polarity, read_under, nothing)
        for polarity in ("pos", "neg")
    )
    vectors = difference(pos, neg)
    assert np.linalg.norm(vectors.prompt_avg[1:], axis=1).min() > 1e-3
    assert np.linalg.norm(vectors.prompt_last[1:], axis=1).min() > 1e-3


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_answer_makes_no_pair_whatever_coherence_is_asked_for(empty: str) -> None:
    written, missing = JudgedAnswer("yes", 90.0, 80.0), JudgedAnswer(empty, 50.0, 0.0)
    negative = JudgedAnswer("no", 10.0, 80.0)
    assert effective_pairs([written, missing], [negative, negative], coherence=0.0) == [0]
    with pytest.raises(PipelineError, match="no effective pair among 1"):
        effective_pairs([written], [JudgedAnswer(empty, 10.0, 0.0)], coherence=0.0)
