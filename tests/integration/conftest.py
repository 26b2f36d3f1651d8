"""The fixtures of all modules: three servers, which the root conftest starts, and their expected projections."""

from pathlib import Path

import pytest
import torch

from tests.support.forks import prepare
from tests.support.random_llama import Oracle
from tests.support.reference import SERVED_PRECISION, Reference
from tests.support.serving import Server
from tests.support.shared_servers import SHIPPED_VECTORS, SharedServers, embedded_directions
from traitwatch.vectors import Float32Array
from traitwatch_builder.models.embedded import embedded_model


@pytest.fixture(scope="session", autouse=True)
def forks_prepared() -> None:
    """Import the modules of the forked commands before the first of these commands starts."""
    prepare()


@pytest.fixture(scope="session")
def scored(shared_servers: SharedServers) -> Server:
    """Return our server of the random model, which scores by default."""
    return shared_servers.get("scored")


@pytest.fixture(scope="session")
def unscored(shared_servers: SharedServers) -> Server:
    """Return vLLM's own server of the same model, with the same options."""
    return shared_servers.get("unscored")


@pytest.fixture(scope="session")
def embedded(shared_servers: SharedServers) -> Server:
    """Return our server of the embedded model, with the shipped vectors; the server prefills long prompts in chunks."""
    return shared_servers.get("embedded")


@pytest.fixture(scope="session")
def oracle(shared_servers: SharedServers) -> Oracle:
    """Return the oracle of the random model, which computes the expected projections."""
    return Oracle(shared_servers.random_model, shared_servers.random_probes)


@pytest.fixture(scope="session")
def model() -> Path:
    return embedded_model()


@pytest.fixture(scope="session")
def shipped() -> Path:
    """Return the directory of the shipped vectors."""
    return SHIPPED_VECTORS


@pytest.fixture(scope="session")
def directions(shared_servers: SharedServers) -> dict[str, tuple[int, Float32Array]]:
    """Return the layer and the unit direction of each random vector, by name."""
    return embedded_directions(shared_servers.embedded_probes)


@pytest.fixture(scope="session")
def reference(model: Path) -> Reference:
    return Reference(model)


@pytest.fixture(scope="session")
def in_served_precision(model: Path) -> Reference:
    """Return the model in the served precision; its distance from `reference` is the error of rounding alone."""
    return Reference(model, getattr(torch, SERVED_PRECISION))
