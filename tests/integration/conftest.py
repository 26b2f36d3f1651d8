"""What the modules share: three servers, which the root conftest starts, and what their projections must be."""

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
    """Have what the forked commands import ready when the first of them starts."""
    prepare()


@pytest.fixture(scope="session")
def scored(shared_servers: SharedServers) -> Server:
    """Our server of the random model: it scores by default, and its clients need not know of it."""
    return shared_servers.get("scored")


@pytest.fixture(scope="session")
def unscored(shared_servers: SharedServers) -> Server:
    """vLLM's own server on the same model, with the same options."""
    return shared_servers.get("unscored")


@pytest.fixture(scope="session")
def embedded(shared_servers: SharedServers) -> Server:
    """Our server of the embedded model, with the shipped vectors; it prefills long prompts in chunks."""
    return shared_servers.get("embedded")


@pytest.fixture(scope="session")
def oracle(shared_servers: SharedServers) -> Oracle:
    """What the projections of the random model must be."""
    return Oracle(shared_servers.random_model, shared_servers.random_probes)


@pytest.fixture(scope="session")
def model() -> Path:
    return embedded_model()


@pytest.fixture(scope="session")
def shipped() -> Path:
    """The directory of the vectors that come with the project."""
    return SHIPPED_VECTORS


@pytest.fixture(scope="session")
def directions(shared_servers: SharedServers) -> dict[str, tuple[int, Float32Array]]:
    """Each random vector's layer and unit direction."""
    return embedded_directions(shared_servers.embedded_probes)


@pytest.fixture(scope="session")
def reference(model: Path) -> Reference:
    return Reference(model)


@pytest.fixture(scope="session")
def in_served_precision(model: Path) -> Reference:
    """The model in the served precision: how far from `reference` rounding alone is."""
    return Reference(model, getattr(torch, SERVED_PRECISION))
