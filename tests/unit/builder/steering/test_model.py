"""Steering adds exactly c times the vector at the right positions, and leaves no hook behind, on a tiny Llama."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.support.steering import (
    GREEDY,
    HIDDEN,
    LAYERS,
    PROMPTS,
    SAMPLED,
    VECTOR,
    Letters,
    tiny_llama,
)
from traitwatch_builder.answering.source import Sampling
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.steering.model import SteeredModel, Steering, decoder_layers, steered


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    return tiny_llama()


@pytest.fixture
def model(llama: LlamaForCausalLM) -> Iterator[SteeredModel]:
    yield SteeredModel(llama, Letters(), VECTOR)
    assert hooks(llama) == 0, "a hook was left behind"


def hooks(llama: LlamaForCausalLM) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in llama.modules())


def states_after(llama: LlamaForCausalLM, run: Callable[[], Any]) -> list[list[torch.Tensor]]:
    """Return the input of the next decoder layer, for each pass and each layer index from 1 to LAYERS - 1."""
    passes: list[list[torch.Tensor]] = []

    def watch(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        if module is llama.model.layers[1]:
            passes.append([])
        passes[-1].append(hidden.detach().clone())

    handles = [layer.register_forward_pre_hook(watch, with_kwargs=True) for layer in llama.model.layers[1:]]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return passes


# --- what is added, and where


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_the_residual_stream_is_moved_by_exactly_c_times_v_at_the_last_position(
    llama: LlamaForCausalLM, layer: int
) -> None:
    tokens = torch.tensor([[5, 6, 7, 8]])
    (plain,) = states_after(llama, lambda: llama(tokens))
    addition = 1.5 * torch.from_numpy(VECTOR[layer])
    with steered(llama, {layer: addition[None]}):
        (moved,) = states_after(llama, lambda: llama(tokens))
    for below in range(1, layer):
        assert torch.equal(moved[below - 1], plain[below - 1]), f"layer {below} is below the steered layer"
    torch.testing.assert_close(moved[layer - 1][0, -1] - plain[layer - 1][0, -1], addition, atol=1e-5, rtol=0)
    assert torch.equal(moved[layer - 1][0, :-1], plain[layer - 1][0, :-1]), "earlier prompt tokens are not steered"


def test_while_generating_the_prompts_last_token_and_every_answer_token_is_moved(
    llama: LlamaForCausalLM, model: SteeredModel
) -> None:
    """The states of each pass are those of a model that reads the whole text with the same positions moved."""
    passes = states_after(llama, lambda: model.answer([PROMPTS[1]], [Steering(2, 2.0)], GREEDY))
    answer = model.answer([PROMPTS[1]], [Steering(2, 2.0)], GREEDY)[0]
    ids = torch.tensor([[*PROMPTS[1], *(ord(c) - 64 for c in answer)]])
    start = len(PROMPTS[1])
    assert [p[1].shape[1] for p in passes] == [start] + [1] * (GREEDY.max_tokens - 1)

    def move(module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        moved = output.clone()
        moved[:, start - 1 :] += 2.0 * torch.from_numpy(VECTOR[2])
        return moved

    handle = llama.model.layers[1].register_forward_hook(move)
    try:
        ((_, at_2, at_3),) = states_after(llama, lambda: llama(ids))
    finally:
        handle.remove()
    for index, read in ((1, at_2), (2, at_3)):
        generated = torch.cat([p[index] for p in passes], dim=1)
        torch.testing.assert_close(generated, read[:, : generated.shape[1]], atol=1e-4, rtol=1e-4)


def test_the_vector_is_added_as_it_is_and_not_as_its_unit_vector(llama: LlamaForCausalLM) -> None:
    scaled = VECTOR * 7
    tokens = [[5, 6, 7]]
    (plain, *_) = states_after(llama, lambda: SteeredModel(llama, Letters(), scaled).answer(tokens, [None], GREEDY))
    (moved, *_) = states_after(
        llama, lambda: SteeredModel(llama, Letters(), scaled).answer(tokens, [Steering(1, -0.5)], GREEDY)
    )
    expected = torch.from_numpy(-0.5 * scaled[1])
    torch.testing.assert_close(moved[0][0, -1] - plain[0][0, -1], expected, atol=1e-4, rtol=0)


def test_in_bfloat16_the_sum_is_rounded_once() -> None:
    llama = tiny_llama().to(torch.bfloat16)
    tokens = torch.tensor([[5, 6, 7]])
    (plain,) = states_after(llama, lambda: llama(tokens))
    addition = 0.7 * torch.from_numpy(VECTOR[2])
    with steered(llama, {2: addition[None]}):
        (moved,) = states_after(llama, lambda: llama(tokens))
    assert torch.equal(moved[1][0, -1], (plain[1][0, -1].float() + addition).bfloat16())


# --- batches


@pytest.mark.parametrize("steering", [None, Steering(2, 3.0)])
def test_a_padded_batch_answers_as_one_by_one(model: SteeredModel, steering: Steering | None) -> None:
    together = model.answer(PROMPTS, [steering] * len(PROMPTS), GREEDY)
    assert together == [model.answer([prompt], [steering], GREEDY)[0] for prompt in PROMPTS]


def test_each_row_of_a_batch_is_steered_in_its_own_way(model: SteeredModel) -> None:
    ways = [None, Steering(1, 4.0), Steering(3, 4.0), Steering(3, -4.0)]
    prompts = [PROMPTS[1]] * len(ways)
    together = model.answer(prompts, ways, GREEDY)
    assert together == [model.answer([PROMPTS[1]], [way], GREEDY)[0] for way in ways]
    assert len(set(together)) == len(ways), "each way gives another answer"


def test_coefficient_0_is_plain_generation(llama: LlamaForCausalLM, model: SteeredModel) -> None:
    steered_by_nothing = model.answer(PROMPTS, [Steering(2, 0.0)] * len(PROMPTS), SAMPLED)
    assert steered_by_nothing == model.answer(PROMPTS, [None] * len(PROMPTS), SAMPLED)
    (plain,) = llama.generate(torch.tensor([PROMPTS[1]]), max_new_tokens=8, do_sample=False, pad_token_id=0).tolist()
    assert model.answer([PROMPTS[1]], [Steering(2, 0.0)], GREEDY)[0] == Letters().decode(plain[len(PROMPTS[1]) :])


def test_a_seed_makes_answers_again_and_leaves_other_random_numbers_alone(model: SteeredModel) -> None:
    torch.manual_seed(9)
    untouched = torch.rand(3)
    torch.manual_seed(9)
    first = model.answer(PROMPTS, [None] * 4, SAMPLED)
    assert torch.equal(torch.rand(3), untouched)
    assert model.answer(PROMPTS, [None] * 4, SAMPLED) == first
    other = Sampling(temperature=1.0, top_p=0.9, max_tokens=8, seed=4)
    assert model.answer(PROMPTS, [None] * 4, other) != first


def test_an_answer_ends_before_its_end_token() -> None:
    llama = tiny_llama()
    plain = SteeredModel(llama, Letters(), VECTOR).answer([PROMPTS[0]], [None], GREEDY)[0]
    llama.generation_config.eos_token_id = [63, ord(plain[3]) - 64]
    assert (
        SteeredModel(llama, Letters(), VECTOR).answer([PROMPTS[0]], [None], GREEDY)[0] == plain.partition(plain[3])[0]
    )


# --- hooks and layers


def test_hooks_are_removed_on_error(llama: LlamaForCausalLM) -> None:
    def interrupted() -> None:
        with steered(llama, {1: torch.zeros(1, HIDDEN), 2: torch.zeros(1, HIDDEN)}):
            assert hooks(llama) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert hooks(llama) == 0


def test_a_model_that_passes_by_its_layers_is_not_taken_for_steered(llama: LlamaForCausalLM) -> None:
    with (
        pytest.raises(PipelineError, match=r"did not call its layers \[2\]"),
        steered(llama, {2: torch.zeros(1, HIDDEN)}),
    ):
        llama.model.embed_tokens(torch.tensor([[1]]))


@pytest.mark.parametrize("layer", [-1, 0, LAYERS, LAYERS + 1])
def test_the_embedding_and_the_last_state_are_not_steered(model: SteeredModel, layer: int) -> None:
    with pytest.raises(PipelineError, match=f"layer {layer} cannot be steered.* 1 to {LAYERS - 1} are inner"):
        model.answer(PROMPTS, [Steering(layer, 1.0)] * 4, GREEDY)


def test_layers_are_found_by_their_number_not_by_their_name(llama: LlamaForCausalLM) -> None:
    assert decoder_layers(llama) is llama.model.layers
    model = tiny_llama()
    model.model.blocks = model.model.layers
    del model.model.layers
    # A list of experts inside a layer is no second stack, even if it has as many entries as there are layers.
    model.model.blocks[0].experts = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(LAYERS))
    assert decoder_layers(model) is model.model.blocks


def test_a_model_without_such_a_list_is_refused() -> None:
    model = tiny_llama()
    model.model.layers = torch.nn.ModuleList(list(model.model.layers)[:2])
    with pytest.raises(PipelineError, match=f"no lists of {LAYERS} decoder layers.*--no-steering"):
        decoder_layers(model)
    model.model.others = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(LAYERS))
    model.model.more = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(LAYERS))
    with pytest.raises(PipelineError, match=r"2 lists of 4 decoder layers \(others, more\)"):
        decoder_layers(model)


def test_another_models_vector_is_refused(llama: LlamaForCausalLM) -> None:
    with pytest.raises(PipelineError, match=r"shape \[5, 8\], but the model takes \[5, 16\]"):
        SteeredModel(llama, Letters(), VECTOR[:, :8])
