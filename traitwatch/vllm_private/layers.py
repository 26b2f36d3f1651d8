"""Finds the hidden states in a model of vLLM: its decoder layers, its final norm, and what each of them returns.

The meaning is that of transformers' `output_hidden_states`. vLLM's layers differ in what they return, and the shape of
an output does not show which kind it is. So the classes of layers are listed here by name. A contract test compares
the lists with the source of the installed vLLM, and engine tests compare the states with those of transformers. An
unknown architecture is refused at start-up, with its name.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from traitwatch.errors import LayoutError

_LAYER_LISTS = ("layers", "h", "blocks")
_FINAL_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f")

# Classes of decoder layers, as module.Class below vllm.model_executor.models, whose state is the sum of their output
# (hidden, residual).
STATE_IS_SUM = frozenset(
    {
        "afmoe.AfmoeDecoderLayer",
        "apertus.ApertusDecoderLayer",
        "ernie45_moe.Ernie4_5_MoeDecoderLayer",
        "exaone.ExaoneDecoderLayer",
        "exaone_moe.ExaoneMoeDecoderLayer",
        "gemma.GemmaDecoderLayer",
        "gemma2.Gemma2DecoderLayer",
        "gemma3.Gemma3DecoderLayer",
        "glm4.Glm4DecoderLayer",
        "glm4_moe.Glm4MoeDecoderLayer",
        "gpt_oss.TransformerBlock",
        "internlm2.InternLMDecoderLayer",
        "jamba.JambaAttentionDecoderLayer",
        "jamba.JambaMambaDecoderLayer",
        "lfm2.Lfm2AttentionDecoderLayer",
        "lfm2.Lfm2ShortConvDecoderLayer",
        "lfm2_moe.Lfm2MoeAttentionDecoderLayer",
        "lfm2_moe.Lfm2MoeShortConvDecoderLayer",
        "llama.LlamaDecoderLayer",
        "llama4.Llama4DecoderLayer",
        "mimo_v2.MiMoV2FlashDecoderLayer",
        "minimax_m2.MiniMaxM2DecoderLayer",
        "mistral.MistralDecoderLayer",
        "mixtral.MixtralDecoderLayer",
        "nemotron.NemotronDecoderLayer",
        "nemotron_h.NemotronHAttentionDecoderLayer",
        "nemotron_h.NemotronHMLPDecoderLayer",
        "nemotron_h.NemotronHMambaDecoderLayer",
        "nemotron_h.NemotronHMoEDecoderLayer",
        "nemotron_nas.DeciLMDecoderLayer",
        "olmoe.OlmoeDecoderLayer",
        "qwen2.Qwen2DecoderLayer",
        "qwen2_moe.Qwen2MoeDecoderLayer",
        "qwen3.Qwen3DecoderLayer",
        "qwen3_moe.Qwen3MoeDecoderLayer",
        "qwen3_next.Qwen3NextDecoderLayer",
    }
)
# Classes whose output, or the first of several outputs, is the state already. A residual beside it is older, and must
# not be added.
STATE_IS_OUTPUT = frozenset(
    {
        "bloom.BloomBlock",
        "chatglm.GLMBlock",
        "cohere2_moe.Cohere2MoeDecoderLayer",
        "commandr.CohereDecoderLayer",
        "dbrx.DbrxBlock",
        "exaone4.Exaone4DecoderLayer",
        "falcon.FalconDecoderLayer",
        "falcon_h1.FalconH1ParallelHybrid",
        "gemma4.Gemma4DecoderLayer",
        "gpt2.GPT2Block",
        "gpt_j.GPTJBlock",
        "granite.GraniteDecoderLayer",
        "granitemoe.GraniteMoeDecoderLayer",
        "granitemoehybrid.GraniteMoeHybridAttentionDecoderLayer",
        "granitemoehybrid.GraniteMoeHybridMambaDecoderLayer",
        "granitemoeshared.GraniteMoeSharedDecoderLayer",
        "hyperclovax.HyperCLOVAXDecoderLayer",
        "minicpm.MiniCPMDecoderLayer",
        "olmo_hybrid.OlmoHybridDecoderLayer",
        "opt.OPTDecoderLayer",
        "orion.OrionDecoderLayer",
        "phimoe.PhiMoEDecoderLayer",
        "stablelm.StablelmDecoderLayer",
    }
)


@dataclass(frozen=True)
class StateModule:
    """A module from whose output the hidden state of a layer index is read.

    Attributes:
        module: a decoder layer or the final norm.
        summed: whether its output is (hidden, residual), and the state is their sum.
    """

    module: nn.Module
    summed: bool


def state_parts(output: Any, summed: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the tensors whose sum is the hidden state, out of a module's output.

    Args:
        output: what a `StateModule` returned: `[num_tokens, hidden_size]`, or from transformers' own layers
            `[1, num_tokens, hidden_size]`, or a tuple of such.
        summed: as in `StateModule`.

    Returns:
        `[num_tokens, hidden_size]`, model dtype, and the same or None.

    Raises:
        LayoutError: the state has another shape.
    """
    if summed:
        hidden, residual = output
        return hidden, residual
    # Beside the state, a fused final norm returns the sum before the norm, some layers the stream before the layer.
    hidden = output[0] if isinstance(output, tuple) else output
    if hidden.dim() == 3 and hidden.shape[0] == 1:
        hidden = hidden.squeeze(0)
    if hidden.dim() != 2:
        raise LayoutError(
            f"a decoder layer's output has the shape {list(hidden.shape)}, which is not one state a token; this "
            "architecture is not supported."
        )
    return hidden, None


def state_modules(model: nn.Module, num_layers: int, *, last_stage: bool) -> dict[int, StateModule]:
    """Find where a worker reads the hidden states of the layers that it holds.

    Args:
        model: the model as vLLM loaded it.
        num_layers: decoder layers of the text model.
        last_stage: whether the worker belongs to the last pipeline stage. Other stages may hold a final norm that never
            runs.

    Returns:
        Layer index, from 1 on, to its module. The module of the last index, num_layers, is the final norm.

    Raises:
        LayoutError: as `layer_modules`.
    """
    layers, norm = layer_modules(model, num_layers)
    held = enumerate(list(layers)[:-1], 1)
    states = {i: StateModule(layer, _name(layer) in STATE_IS_SUM) for i, layer in held if not is_placeholder(layer)}
    return states | ({num_layers: StateModule(norm, False)} if last_stage else {})


def layer_modules(model: nn.Module, num_layers: int) -> tuple[nn.ModuleList, nn.Module]:
    """Find a model's decoder layers and its final norm.

    Args:
        model: the model as vLLM loaded it.
        num_layers: decoder layers of the text model.

    Returns:
        The layers, `layers[L - 1]` giving layer index L, and the final norm, giving layer index num_layers.

    Raises:
        LayoutError: no place in the model looks like that, or more than one does, or a layer is of an unknown class.
    """
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers and name.split(".")[-1] in _LAYER_LISTS
    }
    if len(found) > 1:
        found = _of_the_decoder(model, found)
    if len(found) != 1:
        places = ", ".join(found) or "none"
        raise LayoutError(
            f"{type(model).__name__}: expected one list of {num_layers} decoder layers, found {places}; "
            "this architecture is not supported yet."
        )
    ((name, layers),) = found.items()
    parent = model.get_submodule(name.rpartition(".")[0])
    norms = [module for norm in _FINAL_NORMS if isinstance(module := getattr(parent, norm, None), nn.Module)]
    if len(norms) != 1:
        raise LayoutError(
            f"{type(model).__name__}: expected one final norm beside {name}, found {len(norms)}; "
            "this architecture is not supported yet."
        )
    _check_known(model, parent, layers)
    return layers, norms[0]


def _of_the_decoder(model: nn.Module, found: dict[str, nn.ModuleList]) -> dict[str, nn.ModuleList]:
    """Return those of several lists of layers that generate text: an image or audio tower may have as many layers.

    vLLM's own models name the part that generates text, `get_language_model`; those of transformers, `get_decoder`. A
    model that vLLM runs with transformers has both, and the first of them returns the whole model.
    """
    for module in [model, *model.children()]:
        for part_of in ("get_language_model", "get_decoder"):
            try:
                part = getattr(module, part_of)()
            except (AttributeError, NotImplementedError):
                continue
            inside = set(part.modules()) if isinstance(part, nn.Module) else set()
            chosen = {name: layers for name, layers in found.items() if layers in inside}
            if len(chosen) == 1:
                return chosen
    return found


def is_placeholder(module: nn.Module) -> bool:
    """Return whether a module stands for a layer that another pipeline stage holds."""
    return isinstance(module, nn.Identity)


def _check_known(model: nn.Module, decoder: nn.Module, layers: nn.ModuleList) -> None:
    architecture = f"{type(model).__name__} ({type(decoder).__name__})"
    if getattr(decoder, "fast_prefill_enabled", False):
        raise LayoutError(
            f"{architecture}: with kv_sharing_fast_prefill, later layers compute only some of a prompt's tokens, and "
            "Traitwatch cannot see which; leave that option out."
        )
    # Where vLLM has no layers of its own, it runs those of transformers. transformers lists the classes whose output it
    # records as hidden states.
    recorded = (getattr(decoder, "_can_record_outputs", None) or {}).get("hidden_states", ())
    classes = tuple(c for c in (recorded if isinstance(recorded, list | tuple) else [recorded]) if isinstance(c, type))
    for layer in layers:
        if not (is_placeholder(layer) or isinstance(layer, classes) or _name(layer) in STATE_IS_SUM | STATE_IS_OUTPUT):
            raise LayoutError(
                f"{architecture}: Traitwatch does not know what its {type(layer).__name__} returns, and could score "
                "something else than the residual stream. Serve this architecture with vLLM's --model-impl "
                "transformers, build for it with --engine transformers, and please report it."
            )


def _name(layer: nn.Module) -> str:
    """Return the name of the class whose `forward` a decoder layer runs, as in the lists above."""
    runs = next(base for base in type(layer).__mro__ if "forward" in vars(base))
    return f"{runs.__module__}.{runs.__qualname__}".removeprefix("vllm.model_executor.models.")
