"""An engine of the builder generates answers, and the next run reuses them."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.responding import KEPT, answers, arguments, check_conversations
from tests.support.serving import traitwatch
from traitwatch_builder.models.embedded import embedded_model

pytestmark = pytest.mark.engine


def respond(command: list[str]) -> str:
    """Run `traitwatch respond`. Return its output in one line."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stderr.split())


def test_an_own_engine_answers_the_conversations_and_is_not_started_twice(tmp_path: Path) -> None:
    model = embedded_model()
    command = traitwatch(*arguments(model, tmp_path / "own"))
    respond(command)
    rows = answers(model, tmp_path / "own")
    check_conversations(rows, model)

    assert KEPT in respond(command)
    assert answers(model, tmp_path / "own") == rows
