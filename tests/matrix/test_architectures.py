"""Every layer's projections are those of transformers' `output_hidden_states`, or the server refuses the architecture.

Architectures differ in what a decoder layer returns. Each model here is tiny and random. This process serves it in
float32 with every layer tapped. The tests compare every token of a prompt.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.support.reference import Reference
from tests.support.tiny_model import save_tiny
from traitwatch.errors import LayoutError
from traitwatch.vectors import Float32Array
from traitwatch.vllm_private.offline import end_engine
from traitwatch_builder.models.vllm_engine import in_this_process_on_a_cpu, vllm_environment
from traitwatch_builder.reading.states import Span
from traitwatch_builder.reading.vllm_reader import VllmReader
from traitwatch_server.wire import CONFIG_KEY, TAP_VERSION

pytestmark = pytest.mark.engine

HIDDEN, LAYERS, TRAITS = 64, 4, 3
PROMPT = [(7 * i * i + 3 * i + 5) % 250 for i in range(24)]
# In spreads of a layer's projections over the prompt. Measured: 2e-6, and 5e-5 for Gemma 2, whose soft caps differ.
MAX_ERROR = 2e-4
MIN_CORRELATION = 0.99999

COMMON = {
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
}
GROUPED = COMMON | {"num_key_value_heads": 1}
HEADS = GROUPED | {"head_dim": 32}
# Shorter than the prompt.
SLIDING = HEADS | {"sliding_window": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
SCALED = {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2}
GPT2 = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 2, "n_positions": 512}

logger = logging.getLogger(__name__)

CONFIGS: dict[str, Callable[[], transformers.PreTrainedConfig]] = {
    # These layers return (hidden, residual). Their sum is the state.
    "Llama": lambda: transformers.LlamaConfig(**GROUPED),
    "Mistral": lambda: transformers.MistralConfig(**SLIDING),
    "Mixtral": lambda: transformers.MixtralConfig(**HEADS, num_local_experts=4, num_experts_per_tok=2),
    "Qwen2": lambda: transformers.Qwen2Config(**GROUPED),
    "Qwen3": lambda: transformers.Qwen3Config(**HEADS),
    "Qwen3-MoE": lambda: transformers.Qwen3MoeConfig(**HEADS, **EXPERTS),
    "Gemma 2": lambda: transformers.Gemma2Config(**SLIDING),
    "Gemma 3": lambda: transformers.Gemma3TextConfig(**SLIDING),
    "Phi-3": lambda: transformers.Phi3Config(**GROUPED),
    # These layers return one tensor.
    "GPT-2": lambda: transformers.GPT2Config(**GPT2),
    "Granite": lambda: transformers.GraniteConfig(**GROUPED, **SCALED),
    # These layers return (hidden, residual) or (hidden, None). The first is the state.
    "Granite 4": lambda: transformers.GraniteMoeHybridConfig(
        **GROUPED,
        **SCALED,
        layer_types=["attention"] * LAYERS,
        position_embedding_type="rope",
        num_local_experts=0,
        shared_intermediate_size=96,
    ),
    "Cohere": lambda: transformers.CohereConfig(**GROUPED),
    "StableLM": lambda: transformers.StableLmConfig(**GROUPED),
    "EXAONE 4": lambda: transformers.Exaone4Config(**SLIDING),
    "Gemma 4": lambda: transformers.Gemma4TextConfig(**SLIDING, global_head_dim=32),
    # vLLM runs these layers of transformers with a batch dimension.
    "Phi-2": lambda: transformers.PhiConfig(**COMMON),
    "OLMo": lambda: transformers.OlmoConfig(**COMMON),
    "OLMo 2": lambda: transformers.Olmo2Config(**GROUPED),
    "GPT-NeoX": lambda: transformers.GPTNeoXConfig(**COMMON),
}
# A parallel residual in transformers' own layers; norms after attention and MLP in vLLM's; a stale residual.
COMPILED = ("Phi-2", "Gemma 3", "Granite 4")
# One of each way to return the state. OLMo's final norm has no weights.
READ_BY_BUILDER = ("Qwen3", "Cohere", "OLMo")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    vllm_environment()
    # vLLM inspects each model class in a process that imports all of vLLM, so that this process does not start CUDA.
    monkeypatch.setattr("vllm.model_executor.models.registry._run_in_subprocess", lambda inspect: inspect())


@dataclass(frozen=True)
class Served:
    """A model, and the hidden states of PROMPT's tokens: `[LAYERS + 1, len(PROMPT), HIDDEN]`."""

    path: Path
    states: Float32Array


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Served]:
    """The models by architecture. Their states are read before any engine starts.

    The reason: vLLM changes the transformers classes that it runs, for the whole process.
    """
    directory = tmp_path_factory.mktemp("architectures")
    paths = {name: save_tiny(config(), directory / name.replace(" ", "-")) for name, config in CONFIGS.items()}
    return {name: Served(path, Reference(path).states(PROMPT)) for name, path in paths.items()}


@contextmanager
def running(model: Path, *, eager: bool = True) -> Iterator[Any]:
    """Serve a model in this process with every layer tapped."""
    from vllm import LLM

    tap = {"tap": TAP_VERSION, "layers": list(range(1, LAYERS + 1)), "columns": TRAITS}
    with in_this_process_on_a_cpu():
        llm = LLM(
            model=str(model),
            dtype="float32",
            max_model_len=64,
            max_num_batched_tokens=64,
            max_num_seqs=2,
            enforce_eager=eager,
            worker_cls="traitwatch_server.worker.worker.TraitWorker",
            additional_config={CONFIG_KEY: tap},
        )
    try:
        yield llm
    finally:
        end_engine(llm)


def projections(llm: Any, directions: Mapping[int, Float32Array]) -> dict[int, Float32Array]:
    """Return the projections of PROMPT's tokens on the directions of each layer: `[len(PROMPT), TRAITS]`."""
    from vllm import SamplingParams

    def load(worker: Any) -> None:
        for layer, rows in directions.items():
            worker._tap.load(layer, 0, torch.from_numpy(rows))

    def read(worker: Any) -> dict[int, Float32Array]:
        parts = worker._tap.read(slice(0, len(PROMPT)))
        return {layer: part.numpy().copy() for layer, part in zip(worker._tap.layers, parts, strict=True)}

    llm.collective_rpc(load)
    prompt: Any = {"prompt_token_ids": PROMPT}
    # The pass of the prompt also samples the one generated token. There is no other pass.
    llm.generate([prompt], SamplingParams(max_tokens=1, temperature=0.0), use_tqdm=False)
    return llm.collective_rpc(read)[0]  # type: ignore[no-any-return]


def random_directions() -> dict[int, Float32Array]:
    random = np.random.default_rng(3)
    rows = random.standard_normal((LAYERS, TRAITS, HIDDEN)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    return dict(enumerate(rows, 1))


def error(got: Float32Array, expected: Float32Array) -> float:
    """Return the largest difference, in spreads of the expected values."""
    return float(np.abs(got - expected).max() / expected.std())


def correlation(got: Float32Array, expected: Float32Array) -> float:
    """Return the lowest correlation of any trait."""
    return min(float(np.corrcoef(a, b)[0, 1]) for a, b in zip(got.T, expected.T, strict=True))


def check_parity(model: Served, *, eager: bool) -> None:
    directions = random_directions()
    with running(model.path, eager=eager) as llm:
        got = projections(llm, directions)
    assert list(got) == list(range(1, LAYERS + 1))
    for layer, rows in directions.items():
        expected = model.states[layer] @ rows.T
        other = model.states[layer - 1] @ rows.T
        assert error(other, expected) > 100 * MAX_ERROR, "the layers are too much alike for this test to see a shift"
        logger.info("layer %d: error %.1e", layer, error(got[layer], expected))
        assert error(got[layer], expected) < MAX_ERROR, f"layer {layer}"
        assert correlation(got[layer], expected) > MIN_CORRELATION, f"layer {layer}"


@pytest.mark.parametrize("name", CONFIGS)
def test_every_layer_has_the_states_of_transformers(name: str, models: dict[str, Served]) -> None:
    check_parity(models[name], eager=True)


@pytest.mark.parametrize("name", COMPILED)
def test_every_compiled_layer_has_the_states_of_transformers(name: str, models: dict[str, Served]) -> None:
    check_parity(models[name], eager=False)


@pytest.mark.parametrize("name", READ_BY_BUILDER)
def test_the_builder_reads_the_states_of_transformers_with_vllm(name: str, models: dict[str, Served]) -> None:
    model = models[name]
    starts = (0, 9, len(PROMPT) - 1)
    with VllmReader(model.path, 64, dtype="float32") as reader:
        got = dict(reader.read([Span(PROMPT, start) for start in starts], lambda count: None))
    for i, start in enumerate(starts):
        for layer, states in enumerate(model.states):
            assert error(got[i].mean[layer], states[start:].mean(axis=0)) < MAX_ERROR, f"layer {layer}"
            assert error(got[i].last[layer], states[-1]) < MAX_ERROR, f"layer {layer}"


def test_an_architecture_that_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    """Gemma 3n has four streams of states."""
    config = transformers.Gemma3nTextConfig(
        **SLIDING,
        hidden_size_per_layer_input=16,
        vocab_size_per_layer_input=260,
        num_kv_shared_layers=0,
        activation_sparsity_pattern=[0.0] * LAYERS,
        layer_types=["full_attention"] * LAYERS,
    )
    model = save_tiny(config, tmp_path)
    with (
        pytest.raises(LayoutError, match=r"Gemma3nForCausalLM.*Gemma3nDecoderLayer.*--model-impl transformers"),
        running(model),
    ):
        pass
