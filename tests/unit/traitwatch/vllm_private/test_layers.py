"""The module whose output is the state of a layer, the part of the output, and the facts about vLLM behind both."""

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from traitwatch.errors import LayoutError
from traitwatch.vllm_private.layers import (
    STATE_IS_OUTPUT,
    STATE_IS_SUM,
    StateModule,
    layer_modules,
    state_modules,
    state_parts,
)


class Llama(nn.Linear):
    """Stands for vLLM's class. The module of `forward` decides."""

    __module__, __qualname__ = "vllm.model_executor.models.llama", "LlamaDecoderLayer"

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input


class Derived(Llama):
    """Runs the forward of a known class."""


class Overriding(Llama):
    """Runs its own forward."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input


class Decoder(nn.Module):
    def __init__(self, layers: list[nn.Module], norm: str = "norm", norm_module: nn.Module | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        setattr(self, norm, norm_module or nn.LayerNorm(1))


def llamas(count: int) -> list[nn.Module]:
    return [Llama(1, 1) for _ in range(count)]


def model_of(decoder: Decoder) -> nn.ModuleDict:
    return nn.ModuleDict({"model": decoder, "lm_head": nn.Linear(1, 1)})


def test_layers_and_final_norm_are_found() -> None:
    decoder = Decoder(llamas(3))
    layers, norm = layer_modules(model_of(decoder), 3)
    assert layers is decoder.layers
    assert norm is decoder.norm


@pytest.mark.parametrize(
    "model",
    [
        nn.ModuleDict({"model": Decoder(llamas(4))}),
        nn.ModuleDict({"a": Decoder(llamas(3)), "b": Decoder(llamas(3))}),
        nn.ModuleDict({"model": Decoder(llamas(3), norm="unheard_of")}),
        nn.ModuleDict({"model": Decoder([*llamas(2), nn.Linear(1, 1)])}),
        nn.ModuleDict({"model": Decoder([Overriding(1, 1) for _ in range(3)])}),
    ],
    ids=["another number of layers", "two towers", "no norm", "an unknown layer", "a known layer with another forward"],
)
def test_a_model_that_looks_otherwise_is_refused_by_name(model: nn.Module) -> None:
    with pytest.raises(LayoutError, match="ModuleDict"):
        layer_modules(model, 3)


class Tower(nn.Module):
    """An encoder of images or audio, with as many layers as the decoder, and of a class that decoders have too."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(llamas(count))
        self.norm = nn.LayerNorm(1)


class Multimodal(nn.Module):
    """Like vLLM's models of text and images, whichever part comes first."""

    def __init__(self, decoder: Decoder, tower: Tower, *, tower_first: bool) -> None:
        super().__init__()
        parts = {"visual": tower, "language_model": model_of(decoder)}
        for name in parts if tower_first else reversed(parts):
            self.add_module(name, parts[name])

    def get_language_model(self) -> nn.Module:
        return self.get_submodule("language_model")


class RunByTransformers(nn.Module):
    """Like a model of transformers in vLLM, whose language model is itself with another interface."""

    def __init__(self, decoder: Decoder, tower: Tower) -> None:
        super().__init__()
        self.model = Pretrained(decoder, tower)

    def get_language_model(self) -> nn.Module:
        return self


class Pretrained(nn.Module):
    def __init__(self, decoder: Decoder, tower: Tower) -> None:
        super().__init__()
        self.audio_tower = tower
        self.language_model = decoder

    def get_decoder(self) -> nn.Module:
        return self.language_model


class EncoderDecoder(nn.Module):
    """Its parts are equal, and nothing says which of them generates text."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Decoder(llamas(3)), Decoder(llamas(3))

    def get_language_model(self) -> nn.Module:
        raise NotImplementedError


@pytest.mark.parametrize("tower_first", [True, False])
def test_the_layers_of_the_language_model_are_taken_where_a_tower_has_as_many(*, tower_first: bool) -> None:
    decoder = Decoder(llamas(3))
    layers, norm = layer_modules(Multimodal(decoder, Tower(3), tower_first=tower_first), 3)
    assert layers is decoder.layers
    assert norm is decoder.norm


def test_the_layers_of_the_decoder_are_taken_in_a_model_of_transformers() -> None:
    decoder = Decoder(llamas(3))
    assert layer_modules(RunByTransformers(decoder, Tower(3)), 3)[0] is decoder.layers


def test_draft_layers_beside_the_decoder_are_not_taken() -> None:
    """Layers that predict several tokens stand in the same model, in a list of their own length or of the same."""
    decoder = Decoder(llamas(3))
    model = Multimodal(decoder, Tower(3), tower_first=True)
    model.add_module("mtp", Decoder(llamas(3)))
    assert layer_modules(model, 3)[0] is decoder.layers


def test_parts_of_which_none_is_named_are_refused() -> None:
    with pytest.raises(LayoutError, match=r"EncoderDecoder.*encoder\.layers, decoder\.layers"):
        layer_modules(EncoderDecoder(), 3)


def test_vllms_and_transformers_models_name_the_part_that_generates_text() -> None:
    for module, method in (
        ("vllm.model_executor.models.interfaces", "get_language_model"),
        ("transformers.modeling_utils", "get_decoder"),
    ):
        package, *parts = module.split(".")
        spec = find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        text = Path(spec.submodule_search_locations[0], *parts).with_suffix(".py").read_text()
        assert f"def {method}(self" in text


def test_a_layer_that_runs_a_known_forward_is_known() -> None:
    layers, _ = layer_modules(model_of(Decoder([Derived(1, 1) for _ in range(3)])), 3)
    assert state_modules(model_of(Decoder(list(layers))), 3, last_stage=True)[1].summed


def test_the_last_index_is_the_final_norm_and_the_others_are_layers() -> None:
    decoder = Decoder(llamas(3))
    states = state_modules(model_of(decoder), 3, last_stage=True)
    assert states == {
        1: StateModule(decoder.layers[0], summed=True),
        2: StateModule(decoder.layers[1], summed=True),
        3: StateModule(decoder.norm, summed=False),
    }


def test_a_stage_of_a_pipeline_has_the_layers_that_it_runs() -> None:
    """Placeholders stand for the layers of other stages. Many models make a final norm on every stage."""
    first = Decoder([*llamas(2), nn.Identity()])
    assert list(state_modules(model_of(first), 3, last_stage=False)) == [1, 2]
    last = Decoder([nn.Identity(), nn.Identity(), *llamas(1)])
    assert list(state_modules(model_of(last), 3, last_stage=True)) == [3]


def test_a_norm_without_weights_is_no_placeholder() -> None:
    """This is OLMo's norm."""
    decoder = Decoder(llamas(3), norm_module=nn.LayerNorm(1, elementwise_affine=False))
    assert state_modules(model_of(decoder), 3, last_stage=True)[3].module is decoder.norm


def test_a_layer_that_transformers_records_is_known() -> None:
    decoder = Decoder([nn.Linear(1, 1) for _ in range(3)])
    decoder._can_record_outputs = {"hidden_states": nn.Linear, "attentions": nn.Bilinear}
    assert not state_modules(model_of(decoder), 3, last_stage=True)[1].summed
    decoder._can_record_outputs = {"hidden_states": nn.Bilinear}
    with pytest.raises(LayoutError, match="Linear"):
        layer_modules(model_of(decoder), 3)


def test_a_model_that_skips_rows_of_later_layers_is_refused() -> None:
    decoder = Decoder(llamas(3))
    decoder.fast_prefill_enabled = True
    with pytest.raises(LayoutError, match="kv_sharing_fast_prefill"):
        layer_modules(model_of(decoder), 3)


def test_the_parts_of_a_state() -> None:
    hidden, residual = torch.rand(5, 4), torch.rand(5, 4)
    assert state_parts((hidden, residual), summed=True) == (hidden, residual)
    for output in (hidden, (hidden, residual), (hidden, None), hidden[None], (hidden[None],)):
        state, added = state_parts(output, summed=False)
        assert torch.equal(state, hidden)
        assert added is None


@pytest.mark.parametrize("shape", [(5, 3, 4), (1, 1, 5, 4), (4,)])
def test_more_than_one_state_a_token_is_refused(shape: tuple[int, ...]) -> None:
    """Some architectures have several streams of states."""
    with pytest.raises(LayoutError, match="shape"):
        state_parts(torch.zeros(shape), summed=False)


def forward_of(name: str) -> ast.FunctionDef:
    """Return the syntax tree of a decoder layer's `forward`, without importing it."""
    module, class_name = name.split(".")
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = Path(spec.submodule_search_locations[0]) / "model_executor" / "models" / f"{module}.py"
    classes = {n.name: n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ClassDef)}
    return next(n for n in classes[class_name].body if isinstance(n, ast.FunctionDef) and n.name == "forward")


def is_residual(node: Any) -> bool:
    return isinstance(node, ast.Name) and node.id == "residual"


def takes_residual(node: ast.AST) -> bool:
    """Return whether a node is a call with the residual and another argument, like a fused norm."""
    return isinstance(node, ast.Call) and len(node.args) == 2 and is_residual(node.args[1])


def returned(forward: ast.FunctionDef) -> list[ast.expr]:
    return [node.value for node in ast.walk(forward) if isinstance(node, ast.Return) and node.value is not None]


@pytest.mark.parametrize("name", sorted(STATE_IS_SUM))
def test_a_layer_whose_output_is_summed_leaves_the_sum_to_the_next_norm(name: str) -> None:
    forward = forward_of(name)
    assert "residual" in [arg.arg for arg in forward.args.args]
    for value in returned(forward):
        assert isinstance(value, ast.Tuple)
        assert len(value.elts) == 2
        assert is_residual(value.elts[1])
    norms = 0
    for node in ast.walk(forward):
        assert not (isinstance(node, ast.BinOp | ast.AugAssign) and any(map(is_residual, ast.iter_child_nodes(node))))
        norms += takes_residual(node)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
            if is_residual(node.targets[0].elts[-1]):
                assert takes_residual(node.value), ast.unparse(node)
        elif isinstance(node, ast.Assign) and is_residual(node.targets[0]):
            assert ast.unparse(node) == "residual = hidden_states"
    assert norms >= 1


@pytest.mark.parametrize("name", sorted(STATE_IS_OUTPUT))
def test_a_layer_whose_output_is_the_state_adds_its_residual_itself(name: str) -> None:
    forward = forward_of(name)
    for value in returned(forward):
        first = value.elts[0] if isinstance(value, ast.Tuple) else value
        assert not is_residual(first)
    if "residual" in [arg.arg for arg in forward.args.args]:
        uses = (node for node in forward.body if "residual" in ast.unparse(node) and not isinstance(node, ast.Expr))
        assert ast.unparse(next(uses)) == "residual = hidden_states", "the layer must ignore the residual of its input"


def test_a_placeholder_is_an_identity() -> None:
    from vllm.model_executor.models.utils import PPMissingLayer

    assert issubclass(PPMissingLayer, nn.Identity)
