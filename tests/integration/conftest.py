"""The fixtures of all modules: three servers, which start before the first test, and their expected projections."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from tests.support.forks import prepare
from tests.support.random_llama import Oracle
from tests.support.reference import SERVED_PRECISION, Reference
from tests.support.serving import Server
from tests.support.shared_servers import NAMES, SHIPPED_VECTORS, SharedServers, embedded_directions
from traitwatch.vectors import Float32Array
from traitwatch_builder.models.embedded import embedded_model


@pytest.fixture(scope="session", autouse=True)
def forks_prepared() -> None:
    """Import the modules of the forked commands before the first of these commands starts."""
    prepare()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the modules that use the shared servers to the end. The servers start while the other modules run."""
    waiting = {item.path for item in items if "shared_servers" in _fixtures(item)}
    items.sort(key=lambda item: item.path in waiting)


@pytest.fixture(scope="session")
def shared_servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServers]:
    """The shared servers that the collected tests use."""
    used = {name for item in request.session.items for name in _fixtures(item)}
    servers = SharedServers([name for name in NAMES if name in used], tmp_path_factory.mktemp("shared-servers"))
    yield servers
    servers.close()


@pytest.fixture(scope="session", autouse=True)
def early_start(request: pytest.FixtureRequest) -> None:
    """Start the shared servers before the first test."""
    if any("shared_servers" in _fixtures(item) for item in request.session.items):
        request.getfixturevalue("shared_servers")


def _fixtures(item: pytest.Item) -> Sequence[str]:
    return getattr(item, "fixturenames", ())


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
