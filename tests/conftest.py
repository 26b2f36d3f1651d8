"""What tests of all kinds share."""

from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.tiny_model import save_tiny_model

# The same examples in every run, and no time limit on one: machines are noisy.
settings.register_profile("traitwatch", deadline=None, derandomize=True)
settings.load_profile("traitwatch")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny random model with a chat template."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny-llama")
