"""What tests of all kinds share."""

from pathlib import Path

import pytest

from tests.tiny_model import save_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny random model with a chat template."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny-llama")
