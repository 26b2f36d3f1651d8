"""The steps of the builder, each against what it promises; a tiny random Llama stands for the model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from builder.conversation import Elicitation
from builder.definitions import Example, InstructionPair, TraitDefinition
from builder.errors import PipelineError
from builder.extract import JudgedAnswer, difference, effective_pairs, split_half_cosine
from builder.likelihood import LikelihoodJudge, coherence, posterior, repetition
from builder.reader import Reader, States, shared_prefix
from builder.worklog import Worklog

DEFINITION = TraitDefinition(
    instruction=[InstructionPair(pos=f"be so {i}", neg=f"be not so {i}") for i in range(5)],
    questions=["q0?", "q1?", "q2?"],
    eval_prompt="{question}{answer}",
    examples=[Example(question=f"e{i}?", pos=f"yes {i}", neg=f"no {i}") for i in range(16)],
)


def nothing(count: int) -> None:
    """Progress that nobody looks at."""


class Letters:
    """A tokenizer of one token a character, with a chat template."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) % 60 for c in text]}

    def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> list[int]:
        text = "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"
        return self(text)["input_ids"]


@pytest.fixture(scope="module")
def reader() -> Reader:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return Reader(LlamaForCausalLM(config), Letters())


# --- conversations


@pytest.mark.parametrize(("elicit", "contexts"), [("system", 5), ("many-shot", 4)])
def test_answers_are_spread_evenly_and_judged_by_other_contexts(elicit: Any, contexts: int) -> None:
    elicitation = Elicitation(DEFINITION, elicit, "bravery")
    rows = elicitation.rows([f"q{i}?" for i in range(20)], samples=10)
    assert len(rows) == 200
    counts = np.bincount([row.context for row in rows], minlength=contexts)
    assert counts.tolist() == [200 // contexts] * contexts
    assert all(elicitation.judging_context(row.context) != row.context for row in rows)
    assert {elicitation.judging_context(c) for c in range(contexts)} <= set(range(contexts))


def test_a_system_prompt_names_the_trait_and_its_opposite() -> None:
    elicitation = Elicitation(DEFINITION, "system", "overbearing")
    row = elicitation.rows(["why?"], 1)[0]
    assert elicitation.prompt(row, "pos") == [
        {"role": "system", "content": "You are an overbearing assistant. be so 0"},
        {"role": "user", "content": "why?"},
    ]
    assert elicitation.prompt(row, "neg")[0]["content"] == "You are a helpful assistant. be not so 0"


def test_many_shot_shows_half_of_the_examples_and_then_asks() -> None:
    elicitation = Elicitation(DEFINITION, "many-shot", "bravery")
    row = elicitation.rows(["why?", "when?"], 1)[1]
    messages = elicitation.prompt(row, "neg")
    assert [m["role"] for m in messages] == ["user", "assistant"] * 8 + ["user"]
    assert [m["content"] for m in messages[1::2]] == [f"no {i}" for i in range(4, 12)]
    assert messages[-1]["content"] == "when?"


@pytest.mark.parametrize("count", [4, 12, 13, 14, 15, 16])
def test_many_shot_judges_by_examples_that_did_not_elicit(count: int) -> None:
    some = DEFINITION.model_copy(update={"examples": DEFINITION.examples[:count]})
    elicitation = Elicitation(some, "many-shot", "bravery")
    for context in range(elicitation.num_contexts):
        shown = {m["content"] for m in elicitation.opening(context, "pos")}
        judging = {m["content"] for m in elicitation.opening(elicitation.judging_context(context), "pos")}
        assert len(shown) == len(judging) == 2 * (count // 2)
        assert not shown & judging


def test_one_context_cannot_judge_itself() -> None:
    few = DEFINITION.model_copy(update={"examples": DEFINITION.examples[:3]})
    with pytest.raises(PipelineError, match="at least 4 examples"):
        Elicitation(few, "many-shot", "bravery")


# --- reading


def test_likelihoods_with_a_shared_opening_are_those_without(reader: Reader) -> None:
    texts = [([1, 2, 3, 4, 5], [6, 7]), ([1, 2, 3, 9], [8, 8, 8, 1, 2]), ([1, 2, 3, 5, 5, 5, 5], [4])]
    opening = shared_prefix([prompt for prompt, _ in texts])
    assert opening == [1, 2, 3]
    shared = list(reader.log_likelihoods(opening, texts, nothing, batch_size=2))
    for got, (prompt, answer) in zip(shared, texts, strict=True):
        logits = reader._model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
        expected = [float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(answer)]
        assert got.tolist() == pytest.approx(expected, abs=1e-5)


def test_padding_takes_no_part_in_means(reader: Reader) -> None:
    texts = [([1, 2], [3]), ([4, 5, 6, 7, 8], [9, 10, 11, 12, 13, 14])]
    for (prompt, answer), got in zip(texts, reader.mean_states(texts, nothing), strict=True):
        output = reader._model(torch.tensor([[*prompt, *answer]]), output_hidden_states=True)
        states = torch.stack([state[0] for state in output.hidden_states]).detach()
        assert got.response_avg == pytest.approx(states[:, len(prompt) :].mean(1).numpy(), abs=1e-5)
        assert got.prompt_avg == pytest.approx(states[:, : len(prompt)].mean(1).numpy(), abs=1e-5)
        assert got.prompt_last == pytest.approx(states[:, len(prompt) - 1].numpy(), abs=1e-5)
        assert got.response_avg.shape == (4, 16)


def test_the_last_layer_is_after_the_final_norm(reader: Reader) -> None:
    (state,) = reader.hidden_states([([1, 2], [3])], nothing)
    logits = reader._model(torch.tensor([[1, 2, 3]])).logits[0].detach()
    from_state = torch.from_numpy(state[-1]) @ reader._model.lm_head.weight.T.detach()
    torch.testing.assert_close(from_state, logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("prompts", "shared"), [([[1, 2, 3]], [1, 2]), ([[1, 2], [1, 2, 3]], [1]), ([[1, 2], [3, 4]], [])]
)
def test_each_prompt_keeps_a_token_of_its_own(prompts: list[list[int]], shared: list[int]) -> None:
    assert shared_prefix(prompts) == shared


# --- the likelihood judge


def test_the_posterior_is_bayes_rule_with_equal_priors() -> None:
    assert posterior(-10.0, -10.0) == 50.0
    assert posterior(np.log(0.3), np.log(0.1)) == pytest.approx(75.0)
    assert posterior(-5000.0, -1.0) == pytest.approx(0.0)
    assert posterior(-1.0, -5000.0) == pytest.approx(100.0)


def test_a_loop_is_not_coherent_however_likely() -> None:
    loop, prose = [1, 2] * 30, list(range(60))
    assert coherence([-0.01] * 60, loop) < 10
    assert coherence([-1.0] * 60, prose) == 100.0
    assert repetition(prose) == 0.0


def test_word_salad_is_not_coherent() -> None:
    assert coherence([-5.0] * 30, list(range(30))) == 0.0
    assert 0 < coherence([-2.5] * 30, list(range(30))) < 100


def test_an_empty_answer_is_neither_nor(reader: Reader) -> None:
    assert coherence([], []) == 0.0
    elicitation = Elicitation(DEFINITION, "many-shot", "bravery")
    rows = elicitation.rows(["why?"], 3)
    verdicts = LikelihoodJudge(reader, elicitation).score(rows, ["some", "", "thing"], nothing)
    assert verdicts[1].trait == 50.0
    assert verdicts[1].coherence == 0.0
    assert verdicts[0].trait != 50.0


def test_the_judge_reads_the_whole_answer_under_contexts_that_did_not_elicit_it(reader: Reader) -> None:
    elicitation = Elicitation(DEFINITION, "many-shot", "bravery")
    rows = elicitation.rows(["why?", "how?"], 2)
    answers = ["because it is", "slowly", "no 3", "yes"]
    got = LikelihoodJudge(reader, elicitation).score(rows, answers, nothing)
    for row, answer, verdict in zip(rows, answers, got, strict=True):
        totals = {}
        for polarity in ("pos", "neg"):
            opening = elicitation.opening(elicitation.judging_context(row.context), polarity)
            prompt = reader.token_ids([*opening, {"role": "user", "content": row.question}])
            (values,) = reader.log_likelihoods([], [(prompt, Letters()(answer)["input_ids"])], nothing)
            totals[polarity] = float(values.sum())
        assert verdict.trait == pytest.approx(posterior(totals["pos"], totals["neg"]), abs=1e-2)


# --- extraction


def judged(*scores: tuple[float, float]) -> list[JudgedAnswer]:
    return [JudgedAnswer("x", trait, coherence) for trait, coherence in scores]


def test_a_pair_is_effective_when_both_answers_are_as_they_should() -> None:
    pos = judged((90, 80), (49, 80), (90, 80), (90, 49), (90, 80), (50, 50))
    neg = judged((10, 80), (10, 80), (50, 80), (10, 80), (10, 49), (49, 50))
    assert effective_pairs(pos, neg) == [0, 5]


def test_no_effective_pair_says_which_filter_let_none_through() -> None:
    with pytest.raises(PipelineError, match=r"0 positive answers .* 1 negative ones .* 1 pairs"):
        effective_pairs(judged((10, 80)), judged((10, 80)))


def states(value: float) -> States:
    full = np.full((2, 3), value, dtype=np.float32)
    return States(response_avg=full, prompt_avg=2 * full, prompt_last=3 * full)


def test_the_vector_is_the_difference_of_means() -> None:
    vectors = difference([states(5), states(7)], [states(1), states(2), states(3)])
    assert vectors.response_avg.tolist() == np.full((2, 3), 4.0).tolist()
    assert vectors.prompt_avg.tolist() == np.full((2, 3), 8.0).tolist()
    assert vectors.prompt_last.tolist() == np.full((2, 3), 12.0).tolist()
    assert vectors.response_avg.dtype == np.float32


def test_halves_of_a_clear_vector_agree_and_of_noise_do_not() -> None:
    random = np.random.default_rng(0)

    def sample(shift: float) -> States:
        value = random.standard_normal((2, 400)).astype(np.float32) + shift
        return States(value, value, value)

    def cosine(shift: float, questions: list[int]) -> float | None:
        pos, neg = [sample(shift) for _ in questions], [sample(0) for _ in questions]
        return split_half_cosine(pos, neg, questions, 1, seed=0)

    clear, noise = cosine(3, [i // 4 for i in range(40)]), cosine(0, [i // 4 for i in range(40)])
    assert clear is not None
    assert noise is not None
    assert clear > 0.95
    assert abs(noise) < 0.3
    assert cosine(3, [7] * 40) is None, "one question makes no halves"


# --- going on after an interruption


def test_an_interrupted_step_goes_on_where_it_stopped(tmp_path: Path) -> None:
    asked: list[int] = []

    def produce(first: int, stop: int) -> Iterator[dict[str, int]]:
        asked.append(first)
        for i in range(first, 5):
            if i == stop:
                raise KeyboardInterrupt
            yield {"i": i}

    worklog = Worklog(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        worklog.run("step", {"a": 1}, 5, lambda first: produce(first, 3))
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text() + '{"i": 3')
    assert worklog.run("step", {"a": 1}, 5, lambda first: produce(first, 99)) == [{"i": i} for i in range(5)]
    assert asked == [0, 3]
    worklog.run("step", {"a": 1}, 5, lambda first: produce(first, 99))
    assert asked == [0, 3], "a finished step is not repeated"
    worklog.run("step", {"a": 2}, 5, lambda first: produce(first, 99))
    assert asked == [0, 3, 0], "other inputs start anew"
