"""The tap computes h . v / ||v|| of the right tensor, eager and compiled. The compiler never removes the op."""

from typing import Any

import pytest
import torch
from torch import nn

from traitwatch.errors import LayoutError
from traitwatch.vllm_private.layers import StateModule
from traitwatch_server.worker.tap import Tap

HIDDEN = 8
MAX_TOKENS = 16
COLUMNS = 4


class Layer(nn.Module):
    """A decoder layer like vLLM's. It returns (hidden, residual), whose sum is the residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.linear(hidden), residual + hidden


class Norm(nn.Module):
    """A fused norm like vLLM's. It returns the normed state, and the sum before the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(HIDDEN))

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total = hidden + residual
        return total / total.norm(dim=-1, keepdim=True) * self.weight, total


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.norm = Norm()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        residual = torch.zeros_like(hidden)
        for layer in self.layers:
            hidden, residual = layer(hidden, residual)
        return self.norm(hidden, residual)[0]  # type: ignore[no-any-return]


def tapped(model: Model) -> Tap:
    states = {1: StateModule(model.layers[0], summed=True), 2: StateModule(model.norm, summed=False)}
    return Tap(states, hidden_size=HIDDEN, max_tokens=MAX_TOKENS, columns=COLUMNS, device=torch.device("cpu"))


def unit_rows(count: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, HIDDEN), dim=1)


def expected(model: Model, x: torch.Tensor, first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    hidden, residual = model.layers[0](x, torch.zeros_like(x))
    return torch.cat([(hidden + residual) @ first.T, model(x) @ last.T], dim=1)


@pytest.mark.parametrize("compiled", [False, True])
def test_projections_are_those_of_the_residual_stream_and_of_the_normed_state(compiled: bool) -> None:
    torch.manual_seed(0)
    plain = Model()
    model = Model()
    model.load_state_dict(plain.state_dict())
    tap = tapped(model)
    run: Any = torch.compile(model, fullgraph=True) if compiled else model
    first, last = unit_rows(2), unit_rows(1)
    with torch.inference_mode():
        run(torch.randn(4, HIDDEN))
        # Loaded after the graph was compiled: nothing is recompiled, and the new vectors are used.
        tap.load(1, 0, first)
        tap.load(2, 0, last)
        assert tap.widths == [2, 1]
        for tokens in (4, 9):
            x = torch.randn(tokens, HIDDEN)
            run(x)
            wanted = expected(plain, x, first, last)
            torch.testing.assert_close(torch.cat(tap.read(slice(0, tokens)), dim=1), wanted)
            torch.testing.assert_close(torch.cat(tap.read(torch.tensor([2, 0])), dim=1), wanted[[2, 0]])


class StaleLayer(nn.Module):
    """A decoder layer like Cohere's in vLLM. It returns the whole state, and a residual that nobody adds."""

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return hidden * 3, hidden


class BatchedLayer(nn.Module):
    """A decoder layer like transformers'. vLLM runs it with a batch of one: `[1, num_tokens, hidden_size]`."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return (hidden * 3)[None]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("layer", [StaleLayer, BatchedLayer])
def test_a_state_that_is_the_output_is_projected_without_the_residual(layer: type[nn.Module], compiled: bool) -> None:
    torch.manual_seed(0)
    module, directions = layer(), unit_rows(2)
    tap = Tap(
        {1: StateModule(module, summed=False)},
        hidden_size=HIDDEN,
        max_tokens=MAX_TOKENS,
        columns=COLUMNS,
        device=torch.device("cpu"),
    )
    tap.load(1, 0, directions)
    run: Any = torch.compile(module, fullgraph=True) if compiled else module
    x = torch.randn(5, HIDDEN)
    with torch.inference_mode():
        run(x)
    torch.testing.assert_close(tap.read(slice(0, 5))[0], 3 * x @ directions.T)


def test_the_sum_is_taken_in_float32() -> None:
    """bfloat16 keeps 8 bits: there 256 + 1 would be 256."""
    out = torch.zeros(4, 1)
    hidden, residual = torch.full((1, HIDDEN), 256.0).bfloat16(), torch.ones(1, HIDDEN).bfloat16()
    torch.ops.traitwatch.project(hidden, residual, torch.eye(HIDDEN)[:, :1].contiguous(), out)
    assert out[0, 0] == 257.0


def test_more_rows_than_the_buffer_holds_are_refused() -> None:
    """torch.mm would instead grow a view of the buffer, and the rows would come from the wrong place."""
    with pytest.raises(RuntimeError, match="5 rows"):
        torch.ops.traitwatch.project(torch.ones(5, HIDDEN), None, torch.ones(HIDDEN, 1), torch.zeros(4, 1))


def test_a_column_is_loaded_without_touching_the_others() -> None:
    torch.manual_seed(0)
    model = Model()
    tap = tapped(model)
    tap.load(1, 0, unit_rows(3))
    x = torch.randn(3, HIDDEN)
    with torch.inference_mode():
        model(x)
        before = tap.read(slice(0, 3))[0].clone()
        other = unit_rows(1)
        tap.load(1, 1, other)
        model(x)
        after = tap.read(slice(0, 3))[0]
        hidden, residual = model.layers[0](x, torch.zeros_like(x))
    assert tap.widths == [3, 0]
    torch.testing.assert_close(after[:, [0, 2]], before[:, [0, 2]])
    torch.testing.assert_close(after[:, [1]], (hidden + residual) @ other.T)


def test_the_buffers_are_not_part_of_the_model() -> None:
    model = Model()
    before = set(model.state_dict())
    tapped(model)
    assert set(model.state_dict()) == before


@pytest.mark.parametrize("shape", [(1, HIDDEN + 1), (COLUMNS + 1, HIDDEN)])
def test_vectors_that_do_not_fit_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(LayoutError, match=str(shape[1])):
        tapped(Model()).load(1, 0, torch.zeros(shape))


def test_a_vector_that_is_loaded_while_the_engine_sleeps_is_there_when_it_has_woken() -> None:
    """vLLM saves all buffers of the model before a deep sleep, and copies them back when the engine wakes."""
    torch.manual_seed(0)
    model = Model()
    tap = tapped(model)
    early, late, x = unit_rows(1), unit_rows(1), torch.randn(3, HIDDEN)
    tap.load(1, 0, early)
    saved = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for buffer in model.buffers():
        buffer.fill_(torch.nan)
    tap.load(1, 1, late, asleep=True)
    for name, buffer in model.named_buffers():
        buffer.copy_(saved[name])
    tap.restore()
    with torch.inference_mode():
        model(x)
        hidden, residual = model.layers[0](x, torch.zeros_like(x))
        torch.testing.assert_close(tap.read(slice(0, 3))[0], (hidden + residual) @ torch.cat([early, late]).T)


def test_the_buffers_are_on_the_device_that_computes_and_not_where_the_weights_are() -> None:
    """With `--cpu-offload-gb` and without unified addresses, the weights of a layer are in host memory.

    There is no GPU here: `meta` stands for the device that computes, and the weights are on the CPU.
    """
    model = Model()
    states = {1: StateModule(model.layers[0], summed=True)}
    Tap(states, hidden_size=HIDDEN, max_tokens=MAX_TOKENS, columns=COLUMNS, device=torch.device("meta"))
    assert {parameter.device.type for parameter in model.layers[0].parameters()} == {"cpu"}
    assert {buffer.device.type for buffer in model.layers[0].buffers()} == {"meta"}
