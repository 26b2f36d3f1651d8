"""What the modules share: servers of two models, with and without scores, and what their projections must be.

The embedded model is served in bfloat16 (`eager`, `plain`), the small random one of the engine matrix in float32
(`scored`, `unscored`), where a projection can be told to the fourth decimal and sampling does not hang on rounding.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.random_llama import LAYER_OPTIONS, Oracle, save_model, save_probes
from tests.support.reference import Reference
from tests.support.serving import Server, plain_vllm, serving_at_once, traitwatch
from traitwatch import vectors
from traitwatch.vectors import Float32Array, save_tensor
from traitwatch_builder.models.embedded import embedded_model

# The layers of the parity promise; the last is after the final norm.
PROBE_LAYERS = (1, 10, 20, 30)
ENGINE_LAYER_OPTIONS = [option for layer in PROBE_LAYERS for option in ("--traits-layer", f"probe{layer}={layer}")]


# Grammars hold from the first token on, so that any model can be made to think and to call tools.
_GRAMMAR_OPTION = '{"enable_in_reasoning": true, "disable_any_whitespace": true, "backend": "xgrammar"}'
_GRAMMAR = ["--structured-outputs-config", _GRAMMAR_OPTION]
# A budget below the longest prompts, so that they are prefilled in chunks.
ENGINE_OPTIONS = [
    *("--enforce-eager", "--max-num-batched-tokens", "128", "--max-num-seqs", "64"),
    *("--reasoning-parser", "granite", *_GRAMMAR),
]
# No parser of reasoning here: under granite's, which knows no end of it by tokens, vLLM streams tool calls as content.
FLOAT32_OPTIONS = [
    *("--dtype", "float32", "--enforce-eager", "--max-num-batched-tokens", "256", "--max-num-seqs", "64"),
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes", *_GRAMMAR),
    *("--enable-prompt-tokens-details", "--sse-keep-alive-interval", "1"),
]
# vLLM keeps the answers of background requests only where it is told to.
_WITH_STORE = ["env", "VLLM_ENABLE_RESPONSES_API_STORE=1"]


@pytest.fixture(scope="session")
def model() -> Path:
    return embedded_model()


@pytest.fixture(scope="session")
def shipped() -> Path:
    """The directory of the vectors that come with the project."""
    return vectors.SHIPPED / "SmolLM2-135M-Instruct"


@pytest.fixture(scope="session")
def probes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of random vectors, one for each probed layer."""
    directory = tmp_path_factory.mktemp("probes")
    random = np.random.default_rng(7)
    for layer in PROBE_LAYERS:
        vector = random.standard_normal((31, 576)).astype(np.float32)
        save_tensor(vector, directory / f"probe{layer}_response_avg_diff.pt")
    return directory


@pytest.fixture(scope="session")
def directions(probes: Path) -> dict[str, tuple[int, Float32Array]]:
    """Each probe's layer and unit direction."""
    from traitwatch.vectors import load_vectors

    layers = {f"probe{layer}": layer for layer in PROBE_LAYERS}
    return {v.trait: (layers[v.trait], v.direction(layers[v.trait])) for v in load_vectors([probes])}


@pytest.fixture(scope="session")
def reference(model: Path) -> Reference:
    return Reference(model)


@pytest.fixture(scope="session")
def in_bfloat16(model: Path) -> Reference:
    """How far from `reference` bfloat16 alone is."""
    return Reference(model, torch.bfloat16)


def _serving(
    request: pytest.FixtureRequest, directory: Path, ours: Sequence[str], name: str, theirs: Sequence[str]
) -> AbstractContextManager[list[Server]]:
    """Serve by a command of ours, and by vLLM's own if a test of this run has the fixture `name`."""
    wanted = any(name in getattr(item, "fixturenames", ()) for item in request.session.items)
    commands = {"ours": ours, **({name: theirs} if wanted else {})}
    return serving_at_once(*((command, directory / f"{who}.log") for who, command in commands.items()))


@pytest.fixture(scope="session")
def bfloat16_servers(
    request: pytest.FixtureRequest, model: Path, probes: Path, shipped: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Server]]:
    command = traitwatch(
        "serve", model, "--traits", probes, "--traits", shipped, *ENGINE_LAYER_OPTIONS, "--traits-default", "off"
    )
    theirs = plain_vllm(model, *ENGINE_OPTIONS)
    directory = tmp_path_factory.mktemp("bfloat16")
    with _serving(request, directory, [*command, *ENGINE_OPTIONS], "plain", theirs) as servers:
        yield servers


@pytest.fixture(scope="session")
def eager(bfloat16_servers: list[Server]) -> Server:
    """A server whose default is off, so that each test asks for what it tests; it prefills long prompts in chunks."""
    return bfloat16_servers[0]


@pytest.fixture(scope="session")
def plain(bfloat16_servers: list[Server]) -> Server:
    """vLLM's own server on the same model."""
    return bfloat16_servers[1]


@pytest.fixture(scope="session")
def float32_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small random model of the engine matrix."""
    return save_model(tmp_path_factory.mktemp("float32") / "random-llama")


@pytest.fixture(scope="session")
def float32_probes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_probes(tmp_path_factory.mktemp("float32-probes"))


@pytest.fixture(scope="session")
def oracle(float32_model: Path, float32_probes: Path) -> Oracle:
    return Oracle(float32_model, float32_probes)


@pytest.fixture(scope="session")
def float32_servers(
    request: pytest.FixtureRequest, float32_model: Path, float32_probes: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Server]]:
    command = [*traitwatch("serve", float32_model, "--traits", float32_probes, *LAYER_OPTIONS), *FLOAT32_OPTIONS]
    theirs = [*_WITH_STORE, *plain_vllm(float32_model, *FLOAT32_OPTIONS)]
    directory = tmp_path_factory.mktemp("servers")
    with _serving(request, directory, [*_WITH_STORE, *command], "unscored", theirs) as servers:
        yield servers


@pytest.fixture(scope="session")
def scored(float32_servers: list[Server]) -> Server:
    """A server that scores by default: its clients need not know of it."""
    return float32_servers[0]


@pytest.fixture(scope="session")
def unscored(float32_servers: list[Server]) -> Server:
    """vLLM's own server on the same model, with the same options."""
    return float32_servers[1]
