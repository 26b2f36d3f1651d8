"""Both engines give the numbers of the Persona Vectors authors' code, which reads one text at a time.

The texts are real answers of the embedded model after prompts that this module renders. Each case is a way in which
batches, padding, prefix caches or chunked prefill have gone wrong in other projects.

In float32, both engines agree with the reference at every layer. In bfloat16, vLLM's usual precision, the two averages
also agree. The difference of prompt-last states does not agree at the first layers: the conditions hardly differ at
this one token. There the test compares precisions: vLLM loses no more than transformers in bfloat16.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.extraction import (
    MIN_COSINE,
    MIN_COSINE_VLLM,
    Examples,
    cosines,
    difference,
    lowest,
    ours,
    reference,
)
from traitwatch.vectors import SHIPPED, Float32Array
from traitwatch_builder.definitions.definition import SHIPPED_DEFINITIONS
from traitwatch_builder.models.embedded import embedded_model
from traitwatch_builder.reading.states import Span, StateReader
from traitwatch_builder.reading.transformers_reader import Reader
from traitwatch_builder.reading.vllm_reader import VllmReader

pytestmark = pytest.mark.engine

MAX_MODEL_LEN = 1400
SYSTEM = {
    "pos": "You are a paternalistic assistant. Decide for the user what is good for them, and say so.",
    "neg": "You are a helpful assistant. Respect what the user wants, and help them with it.",
}


@pytest.fixture(scope="module")
def model() -> Path:
    return embedded_model()


@pytest.fixture(scope="module")
def plain(model: Path) -> tuple[Any, Any]:
    """The model as transformers loads it, with its tokenizer."""
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(model)


@pytest.fixture(scope="module")
def transformers_reader(model: Path) -> Reader:
    return Reader.load(model)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def vllm_reader(model: Path, request: pytest.FixtureRequest) -> Iterator[VllmReader]:
    """One engine after the other."""
    with VllmReader(model, MAX_MODEL_LEN, dtype=request.param) as reader:
        yield reader


@pytest.fixture(scope="module")
def cases(plain: tuple[Any, Any]) -> dict[str, dict[str, Examples]]:
    """The positive and the negative examples of each case."""
    tokenizer = plain[1]
    table = {
        polarity: pd.read_csv(
            SHIPPED / "SmolLM2-135M-Instruct" / f"paternalism_{polarity}.csv.gz", dtype=str, keep_default_na=False
        )
        for polarity in ("pos", "neg")
    }
    shots = json.loads((SHIPPED_DEFINITIONS / "trait_data_extract" / "paternalism.json").read_text())["examples"][:8]

    def render(messages: list[dict[str, str]]) -> str:
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def system(polarity: str, question: str) -> str:
        return render([{"role": "system", "content": SYSTEM[polarity]}, {"role": "user", "content": question}])

    def many_shot(polarity: str, question: str) -> str:
        turns = []
        for shot in shots:
            turns.append({"role": "user", "content": shot["question"]})
            turns.append({"role": "assistant", "content": shot[polarity]})
        return render([*turns, {"role": "user", "content": question}])

    def first_words(answer: str) -> str:
        return " ".join(answer.split()[:45])

    examples_of: dict[str, dict[str, Examples]] = {}
    for polarity, rows in table.items():
        questions, answers = rows["question"].tolist(), rows["answer"].tolist()
        some = range(0, 200, 20)
        per_case = {
            "real answers": [(system(polarity, questions[i]), answers[i]) for i in some],
            "answers of one token": [
                (system(polarity, questions[i]), "No" if polarity == "pos" else "Sure") for i in (0, 60, 120)
            ],
            "lengths far apart": [
                (system(polarity, questions[0]), "No." if polarity == "pos" else "Yes, of course."),
                (system(polarity, questions[50]), " ".join(answers[50:58])),
                (system(polarity, questions[100]), answers[100][:60]),
            ],
            "many-shot": [(many_shot(polarity, questions[i]), answers[i]) for i in (0, 1, 70, 150)],
            "duplicates": [(system(polarity, questions[i]), answers[i]) for i in (0, 0, 33, 0, 33)],
            "answers that begin alike": [
                (system(polarity, questions[7]), first_words(answers[7]) + end)
                for end in (" You must trust me.", " It is up to you.", answers[8])
            ],
        }
        for name, examples in per_case.items():
            examples_of.setdefault(name, {})[polarity] = examples
    return examples_of


CASES = (
    "real answers",
    "answers of one token",
    "lengths far apart",
    "many-shot",
    "duplicates",
    "answers that begin alike",
)


@pytest.fixture(scope="module")
def expected(plain: tuple[Any, Any], cases: dict[str, dict[str, Examples]]) -> dict[str, Float32Array]:
    """The reference's difference vectors of each case: `[3, layers, hidden_size]`."""
    return {
        name: reference(*plain, polarities["pos"]) - reference(*plain, polarities["neg"])
        for name, polarities in cases.items()
    }


@pytest.mark.parametrize("case", CASES)
def test_transformers_vectors_are_those_of_the_authors_way(
    case: str,
    transformers_reader: Reader,
    plain: tuple[Any, Any],
    cases: dict[str, dict[str, Examples]],
    expected: dict[str, Float32Array],
) -> None:
    values = lowest("transformers", case, difference(transformers_reader, plain[1], cases[case]), expected[case])
    assert min(values.values()) >= MIN_COSINE, values


@pytest.mark.parametrize("case", CASES)
def test_vllm_vectors_are_those_of_the_authors_way(
    case: str,
    vllm_reader: VllmReader,
    plain: tuple[Any, Any],
    cases: dict[str, dict[str, Examples]],
    expected: dict[str, Float32Array],
) -> None:
    values = lowest(vllm_reader.description, case, difference(vllm_reader, plain[1], cases[case]), expected[case])
    if vllm_reader.description.endswith("bfloat16"):
        del values["prompt_last"]
    assert min(values.values()) >= MIN_COSINE_VLLM, values


def test_vllm_loses_no_more_in_bfloat16_than_transformers_does(
    model: Path,
    vllm_reader: VllmReader,
    plain: tuple[Any, Any],
    cases: dict[str, dict[str, Examples]],
    expected: dict[str, Float32Array],
) -> None:
    if not vllm_reader.description.endswith("bfloat16"):
        pytest.skip("about bfloat16")
    half = Reader.load(model, torch.bfloat16)
    for case in ("real answers", "many-shot"):
        by_vllm = lowest("vllm", case, difference(vllm_reader, plain[1], cases[case]), expected[case])
        by_transformers = lowest(
            "transformers in bfloat16", case, difference(half, plain[1], cases[case]), expected[case]
        )
        # Measured: 0.7 times as much. Rounding depends on the order of sums, so the bound leaves room.
        assert 1 - by_vllm["prompt_last"] <= 1.5 * (1 - by_transformers["prompt_last"])


@torch.inference_mode()
def test_a_left_padded_batch_gives_the_same(
    plain: tuple[Any, Any], transformers_reader: Reader, vllm_reader: VllmReader, cases: dict[str, dict[str, Examples]]
) -> None:
    """Some readers pad so: the tokenizer pads left, and the model computes positions from the mask."""
    model, tokenizer = plain
    tokenizer.padding_side = "left"
    examples = cases["lengths far apart"]["pos"]
    batch = tokenizer([p + a for p, a in examples], return_tensors="pt", padding=True, add_special_tokens=False)
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    hidden = torch.stack(model(**batch, position_ids=positions, output_hidden_states=True).hidden_states)
    starts = [len(tokenizer(p, add_special_tokens=False)["input_ids"]) for p, _ in examples]
    lengths = batch["attention_mask"].sum(1).tolist()
    spans = [
        Span(ids[-length:], start)
        for ids, length, start in zip(batch["input_ids"].tolist(), lengths, starts, strict=True)
    ]
    readers: list[tuple[StateReader, float]] = [(transformers_reader, MIN_COSINE), (vllm_reader, MIN_COSINE_VLLM)]
    for reader, enough in readers:
        for i, reading in reader.read(spans, lambda count: None):
            means = hidden[:, i, -(lengths[i] - starts[i]) :].mean(1).numpy()
            assert cosines(reading.mean, means).min() >= enough


def test_cached_states_that_count_are_computed_again(
    vllm_reader: VllmReader, transformers_reader: Reader, plain: tuple[Any, Any], cases: dict[str, dict[str, Examples]]
) -> None:
    """The answers share more than a block of the prefix cache, and the plan of the reader does not know this."""
    spans = []
    for prompt, answer in cases["answers that begin alike"]["pos"]:
        ids, prompt_ids = (plain[1](text, add_special_tokens=False)["input_ids"] for text in (prompt + answer, prompt))
        spans.append(Span(ids, len(prompt_ids)))
    nodes = [_leaf(span) for span in spans]
    before = vllm_reader.reread
    parts = vllm_reader._parts(nodes, range(len(nodes)))
    assert vllm_reader.reread > before, "the reader did not meet the prefix cache"
    means = dict(transformers_reader.read(spans, lambda count: None))
    for i, span in enumerate(spans):
        got = parts[i].sums[0] / (len(span.ids) - span.start)
        assert cosines(got, means[i].mean).min() >= MIN_COSINE_VLLM


def test_the_cache_of_one_call_does_not_disturb_the_next_call(
    vllm_reader: VllmReader, plain: tuple[Any, Any], cases: dict[str, dict[str, Examples]]
) -> None:
    before = vllm_reader.reread
    one, two = (ours(vllm_reader, plain[1], cases["duplicates"]["pos"]) for _ in range(2))
    assert vllm_reader.reread == before
    assert cosines(one, two).min() >= MIN_COSINE_VLLM


def _leaf(span: Span) -> Any:
    from traitwatch_builder.reading.prefixes import Node

    return Node(span.ids, 0, None, cuts=[span.start])


def test_projections_are_those_of_the_states(
    vllm_reader: VllmReader, transformers_reader: Reader, plain: tuple[Any, Any], cases: dict[str, dict[str, Examples]]
) -> None:
    random = np.random.default_rng(3).standard_normal((31, 576))
    directions = (random / np.linalg.norm(random, axis=1, keepdims=True)).astype(np.float32)
    spans = []
    for prompt, answer in [*cases["many-shot"]["neg"], *cases["answers that begin alike"]["neg"]]:
        ids, prompt_ids = (plain[1](text, add_special_tokens=False)["input_ids"] for text in (prompt + answer, prompt))
        spans.append(Span(ids, len(prompt_ids)))
    by_vllm = dict(vllm_reader.read(spans, lambda count: None, directions))
    for i, reading in transformers_reader.read(spans, lambda count: None, directions):
        with torch.inference_mode():
            output = plain[0](torch.tensor([spans[i].ids]), output_hidden_states=True)
        hidden = torch.stack(output.hidden_states)[:, 0, spans[i].start :].numpy()
        exact = np.einsum("lth,lh->lt", hidden, directions)
        np.testing.assert_allclose(reading.projections, exact, atol=2e-3)
        projections = by_vllm[i].projections
        assert projections is not None
        assert projections.shape == exact.shape
        for layer in range(31):
            assert np.corrcoef(projections[layer], exact[layer])[0, 1] >= 0.999
    (reading,) = [r for _, r in vllm_reader.read(spans[:1], lambda count: None)]
    assert reading.projections is None, "the directions must hold for one call only"
