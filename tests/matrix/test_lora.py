"""With LoRA adapters, each answer has the projections of its own model: of the adapted model or of the base model."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from tests.support.random_llama import LAYER_OPTIONS, Oracle
from tests.support.serving import MODEL_NAME, Server, serving, traitwatch
from tests.support.traffic import Answer, answers, random_prompt, request

pytestmark = pytest.mark.engine

RANK = 8
ALPHA = 16
TARGETS = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]
# One slot more than adapters. On a CPU, vLLM gives the base model the slot -1, and so adds the content of the last slot
# to the answers of the base model (vllm/lora/ops/torch_ops/lora_ops.py). An unloaded adapter keeps its slot until
# another adapter needs the slot.
SLOTS = 4
# In spreads. An adapter moves the projections of the same tokens by at least this much: many times a check's error.
MIN_SHIFT = 0.2


def save_adapter(model: Path, directory: Path, seed: int) -> Path:
    """Write a random adapter in the format of PEFT. Its weights are as large as the weights that it changes."""
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in _targets(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)).items():
        scale = float(module.weight.detach().std()) * RANK**0.5 / ALPHA
        down = torch.randn(RANK, module.in_features, generator=random)
        tensors[f"base_model.model.{name}.lora_A.weight"] = down
        tensors[f"base_model.model.{name}.lora_B.weight"] = scale * torch.randn(
            module.out_features, RANK, generator=random
        )
    directory.mkdir()
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "target_modules": TARGETS}
    (directory / "adapter_config.json").write_text(json.dumps({**config, "lora_dropout": 0.0, "bias": "none"}))
    return directory


def save_merged(model: Path, adapter: Path, directory: Path) -> Path:
    """Write the model with merged weights: W + B A alpha / r."""
    merged = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tensors = load_file(adapter / "adapter_model.safetensors")
    with torch.no_grad():
        for name, module in _targets(merged).items():
            up, down = (tensors[f"base_model.model.{name}.lora_{part}.weight"] for part in "BA")
            module.weight += up @ down * (ALPHA / RANK)
    merged.save_pretrained(directory)
    return directory


def _targets(model: nn.Module) -> dict[str, nn.Linear]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in TARGETS
    }


@pytest.fixture(scope="module")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("adapters")
    return {name: save_adapter(model, directory / name, seed) for seed, name in enumerate(["first", "second"])}


@pytest.fixture(scope="module")
def oracles(
    model: Path, probes: Path, oracle: Oracle, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Oracle]:
    """The expected projections by the name of the model in the request."""
    directory = tmp_path_factory.mktemp("merged")
    merged = {name: Oracle(save_merged(model, path, directory / name), probes) for name, path in adapters.items()}
    return {MODEL_NAME: oracle, **merged}


@pytest.fixture(scope="module")
def server(
    model: Path, probes: Path, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server with the first adapter."""
    command = ["env", "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"]
    command += [*traitwatch("serve", model, "--traits", probes, *LAYER_OPTIONS), "--dtype", "float32"]
    command += ["--enforce-eager", "--enable-lora", "--max-lora-rank", str(RANK), "--max-loras", str(SLOTS)]
    command += ["--lora-modules", f"first={adapters['first']}"]
    with serving(command, tmp_path_factory.mktemp("lora") / "server.log") as server:
        yield server


async def ask(server: Server, models: list[str], seed: int) -> list[tuple[str, Answer]]:
    """Send the same questions to the models at the same time. Return each answer with its model."""
    questions = [(name, number) for number in range(4) for name in models]
    bodies = [
        request(random_prompt(seed + number, 20 + 9 * number), model=name, max_tokens=24, stream=number % 2 == 0)
        for name, number in questions
    ]
    answered = await asyncio.gather(*(answers(server, body) for body in bodies))
    return [(name, answer) for (name, _), (answer,) in zip(questions, answered, strict=True)]


def shift(one: Oracle, other: Oracle, tokens: list[int]) -> float:
    """Return the distance of two models' projections of a text: the median, in spreads, of the closest probe."""
    pairs = [(values, other.projections(tokens)[name]) for name, values in one.projections(tokens).items()]
    return min(float(np.median(np.abs(mine - theirs)) / theirs.std()) for mine, theirs in pairs)


async def test_adapted_and_base_answers_have_the_projections_of_their_own_model(
    server: Server, oracles: dict[str, Oracle]
) -> None:
    for name, answer in await ask(server, [MODEL_NAME, "first"], seed=0):
        answer.check(oracles[name])
        assert shift(oracles[MODEL_NAME], oracles["first"], answer.prompt + answer.tokens) > MIN_SHIFT


async def test_adapters_are_loaded_and_unloaded_while_the_tap_runs(
    server: Server, adapters: dict[str, Path], oracles: dict[str, Oracle], tmp_path: Path
) -> None:
    await load(server, "second", adapters["second"])
    for name, answer in await ask(server, [MODEL_NAME, "first", "second"], seed=100):
        answer.check(oracles[name])
    await unload(server, "second")
    # The third adapter has the weights of the first adapter. It gets the questions of the second adapter.
    await load(server, "third", shutil.copytree(adapters["first"], tmp_path / "third"))
    for name, answer in await ask(server, [MODEL_NAME, "first", "third"], seed=100):
        answer.check(oracles["first" if name == "third" else name])
    assert server.metric("traitwatch_responses_incomplete_total") == 0
    assert server.metric("traitwatch_rows_unclaimed_total") == 0


async def load(server: Server, name: str, path: Path) -> None:
    await post(server, "load_lora_adapter", {"lora_name": name, "lora_path": str(path)})


async def unload(server: Server, name: str) -> None:
    await post(server, "unload_lora_adapter", {"lora_name": name})


async def post(server: Server, path: str, body: dict[str, str]) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        response = await client.post(f"{server.url}/v1/{path}", json=body)
    assert response.status_code == 200, response.text
