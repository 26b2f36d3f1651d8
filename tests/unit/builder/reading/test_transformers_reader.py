"""The transformers reader gives the states of one plain pass for each text, on a tiny random Llama."""

import logging
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from tests.support.trait import nothing
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.reading.states import Reading, Span
from traitwatch_builder.reading.transformers_reader import Reader, shared_prefix

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def make_reader() -> Reader:
    torch.manual_seed(0)
    return Reader(LlamaForCausalLM(LlamaConfig(**SIZES)), None)


@pytest.fixture(scope="module")
def reader() -> Reader:
    return make_reader()


def text(seed: int, length: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 64, length).tolist()  # type: ignore[no-any-return]


@torch.inference_mode()
def plain(reader: Reader, ids: list[int]) -> np.ndarray:
    """Return the states of a text that is read alone: `[num_layers + 1, num_tokens, hidden_size]`."""
    output = reader._model(torch.tensor([ids]), output_hidden_states=True)
    return torch.stack([state[0] for state in output.hidden_states]).numpy()


def assert_same(reader: Reader, span: Span, got: Reading, directions: Any = None) -> None:
    states = plain(reader, span.ids)[:, span.start :]
    np.testing.assert_allclose(got.mean, states.mean(1), atol=1e-5)
    np.testing.assert_allclose(got.last, states[:, -1], atol=1e-5)
    assert got.mean.dtype == got.last.dtype == np.float32
    if directions is None:
        assert got.projections is None
    else:
        np.testing.assert_allclose(got.projections, np.einsum("lth,lh->lt", states, directions), atol=1e-5)


OPENING = text(1, 60)
SPANS = {
    "one token": [Span([5], 0)],
    "lengths far apart": [Span(text(i, n), 0) for i, n in enumerate((1, 300, 2, 90, 7))],
    "answers of one token": [Span([*text(i, 9), i], 9) for i in range(5)],
    "duplicates, other starts": [Span(text(3, 20), start) for start in (0, 7, 7, 19)],
    "a shared opening": [Span([*OPENING, *text(i, 5 + i)], 60 + i % 3) for i in range(9)],
    "starts inside the opening": [Span([*OPENING, *text(i, 5 + i)], 7 * i) for i in range(9)],
    "prompts and their answers": [
        *(Span([*OPENING, 9, i], 0) for i in range(4)),
        *(Span([*OPENING, 9, i, *text(10 * i + k, 6)], 62) for i in range(4) for k in range(3)),
    ],
    "nested openings": [Span([*OPENING, *text(q, 40), *text(100 + a, 4)], 100) for q in (7, 8) for a in range(6)],
    "an opening that is itself asked for": [Span(OPENING, 0), *(Span([*OPENING, i], 60) for i in range(4))],
}


@pytest.mark.parametrize("spans", SPANS.values(), ids=list(SPANS))
def test_readings_are_those_of_plain_passes(reader: Reader, spans: list[Span]) -> None:
    directions = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    counts: list[int] = []
    got = list(reader.read(spans, counts.append, directions))
    assert sorted(i for i, _ in got) == list(range(len(spans)))
    assert sum(counts) == len(spans)
    for i, reading in got:
        assert_same(reader, spans[i], reading, directions)
    for i, reading in reader.read(spans, nothing):
        assert_same(reader, spans[i], reading)


def test_nothing_to_read_is_no_reading(reader: Reader) -> None:
    assert list(reader.read([], nothing)) == []


def test_a_model_with_a_sliding_window_shares_an_opening_longer_than_it() -> None:
    torch.manual_seed(0)
    reader = Reader(MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8)), None)
    for i, reading in reader.read(SPANS["a shared opening"], nothing):
        assert_same(reader, SPANS["a shared opening"][i], reading)


def test_the_last_layer_is_after_the_final_norm(reader: Reader) -> None:
    ((_, reading),) = reader.read([Span([1, 2, 3], 0)], nothing)
    with torch.inference_mode():
        logits = reader._model(torch.tensor([[1, 2, 3]])).logits[0, -1].numpy()
    np.testing.assert_allclose(reader._model.lm_head.weight.detach().numpy() @ reading.last[-1], logits, atol=1e-5)


def test_a_caller_who_pads_left_gets_the_same_numbers(reader: Reader) -> None:
    """The padding side of a tokenizer does not matter: a batch that is padded left has the same states."""
    spans = [Span(text(i, n), n - 3) for i, n in enumerate((5, 30, 12))]
    width = max(len(span.ids) for span in spans)
    padded = torch.tensor([[0] * (width - len(span.ids)) + span.ids for span in spans])
    mask = torch.tensor([[0] * (width - len(span.ids)) + [1] * len(span.ids) for span in spans])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        output = reader._model(padded, attention_mask=mask, position_ids=positions, output_hidden_states=True)
    states = torch.stack(output.hidden_states)
    for i, reading in reader.read(spans, nothing):
        np.testing.assert_allclose(reading.mean, states[:, i, -3:].mean(1).numpy(), atol=1e-5)


# --- batches


def watched(reader: Reader, monkeypatch: pytest.MonkeyPatch, before: Callable[[Any], None]) -> list[tuple[int, int]]:
    """Call `before` with the tokens of each batch; return the list to which the shape of each batch is added."""
    shapes: list[tuple[int, int]] = []
    forward = reader._base.forward

    def spy(input_ids: torch.Tensor, **options: Any) -> Any:
        before(input_ids)
        shapes.append((input_ids.shape[0], input_ids.shape[1]))
        return forward(input_ids, **options)

    monkeypatch.setattr(reader._base, "forward", spy)
    return shapes


def test_batches_are_bounded_in_tokens_and_of_like_length(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = make_reader()
    reader.batch_tokens = 64
    shapes = watched(reader, monkeypatch, lambda tokens: None)
    list(reader.read([Span(text(i, n), 0) for i, n in enumerate([2] * 20 + [30] * 4 + [100])], nothing))
    assert shapes == [(1, 100), (2, 30), (2, 30), (20, 2)]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    ],
    ids=["CUDA", "Linux", "Windows"],
)
def test_a_batch_that_does_not_fit_is_halved_and_the_reading_goes_on(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reader = make_reader()

    def memory(tokens: torch.Tensor) -> None:
        if tokens.numel() > 40:
            raise error

    shapes = watched(reader, monkeypatch, memory)
    spans = [Span(text(i, 10), 4) for i in range(33)]
    with caplog.at_level(logging.WARNING):
        got = dict(reader.read(spans, nothing))
    assert shapes[0] == (4, 10)
    assert len(caplog.records) == 1, "one warning, however often the batch was halved"
    monkeypatch.undo()
    for i, span in enumerate(spans):
        assert_same(reader, span, got[i])


def test_one_text_that_does_not_fit_is_an_error_that_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = make_reader()

    def memory(tokens: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    watched(reader, monkeypatch, memory)
    with pytest.raises(PipelineError, match=r"text of 30 tokens, even alone .*--dtype bfloat16"):
        list(reader.read([Span(text(0, 30), 0), Span(text(1, 20), 0)], nothing))


def test_another_error_is_not_taken_for_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = make_reader()

    def broken(tokens: torch.Tensor) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    watched(reader, monkeypatch, broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        list(reader.read([Span([1, 2], 0), Span([3], 0)], nothing))


def test_memory_does_not_grow_with_the_number_of_texts(reader: Reader) -> None:
    """The readings that are alive at one time are at most those of one batch."""
    reader.batch_tokens, before = 64, reader.batch_tokens
    alive: list[weakref.ref[Reading]] = []
    most = 0
    for _, reading in reader.read([Span([*OPENING, *text(i, 8)], i % 60) for i in range(200)], nothing):
        alive.append(weakref.ref(reading))
        del reading
        most = max(most, sum(ref() is not None for ref in alive))
    reader.batch_tokens = before
    assert most <= 8


# --- likelihoods


def test_likelihoods_with_a_shared_opening_are_those_without(reader: Reader) -> None:
    texts = [([1, 2, 3, 4, 5], [6, 7]), ([1, 2, 3, 9], [8, 8, 8, 1, 2]), ([1, 2, 3, 5, 5, 5, 5], [4])]
    opening = shared_prefix([prompt for prompt, _ in texts])
    assert opening == [1, 2, 3]
    shared = list(reader.log_likelihoods(opening, texts, nothing, batch_size=2))
    for got, (prompt, answer) in zip(shared, texts, strict=True):
        logits = reader._model(torch.tensor([[*prompt, *answer]])).logits[0].detach().log_softmax(-1)
        expected = [float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(answer)]
        assert got.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("prompts", "shared"), [([[1, 2, 3]], [1, 2]), ([[1, 2], [1, 2, 3]], [1]), ([[1, 2], [3, 4]], [])]
)
def test_each_prompt_keeps_a_token_of_its_own(prompts: list[list[int]], shared: list[int]) -> None:
    assert shared_prefix(prompts) == shared
