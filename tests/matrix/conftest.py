"""The fixtures of all modules: the small random model, its probes and the oracle."""

from pathlib import Path

import pytest

from tests.support.random_llama import Oracle, save_model, save_probes


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("matrix") / "random-llama")


@pytest.fixture(scope="session")
def probes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_probes(tmp_path_factory.mktemp("matrix-probes"))


@pytest.fixture(scope="session")
def oracle(model: Path, probes: Path) -> Oracle:
    return Oracle(model, probes)
