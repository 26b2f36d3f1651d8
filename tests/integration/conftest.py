"""One eager server with probes on several layers, one plain vLLM, the reference: shared by the modules."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from builder.artifacts import Float32Array, save_tensor
from builder.embedded_model import embedded_model
from tests.integration.reference import Reference
from tests.integration.serving import Server, plain_vllm, serving, traitwatch

# The layers of the parity promise; the last is after the final norm.
PROBE_LAYERS = (1, 10, 20, 30)
ENGINE_LAYER_OPTIONS = [option for layer in PROBE_LAYERS for option in ("--traits-layer", f"probe{layer}={layer}")]


# A budget below the longest prompts, so that they are prefilled in chunks.
ENGINE_OPTIONS = ["--enforce-eager", "--max-num-batched-tokens", "128", "--max-num-seqs", "64"]


@pytest.fixture(scope="session")
def model() -> Path:
    return embedded_model()


@pytest.fixture(scope="session")
def shipped() -> Path:
    """The directory of the vectors that come with the project."""
    return Path(__file__).parents[2] / "builder" / "data" / "SmolLM2-135M-Instruct"


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
    from builder.artifacts import load_vectors

    layers = {f"probe{layer}": layer for layer in PROBE_LAYERS}
    return {v.trait: (layers[v.trait], v.direction(layers[v.trait])) for v in load_vectors([probes])}


@pytest.fixture(scope="session")
def reference(model: Path) -> Reference:
    return Reference(model)


@pytest.fixture(scope="session")
def eager(model: Path, probes: Path, shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose default is off, so that each test asks for what it tests; it prefills long prompts in chunks."""
    command = traitwatch(
        "serve", model, "--traits", probes, "--traits", shipped, *ENGINE_LAYER_OPTIONS, "--traits-default", "off"
    )
    with serving([*command, *ENGINE_OPTIONS], tmp_path_factory.mktemp("eager") / "server.log") as server:
        yield server


@pytest.fixture(scope="session")
def plain(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """vLLM's own server on the same model."""
    log = tmp_path_factory.mktemp("plain") / "server.log"
    with serving(plain_vllm(model, *ENGINE_OPTIONS), log) as server:
        yield server
