"""`traitwatch respond` takes answers from a server and saves them for the next run; the matrix tests its own engine."""

import os
from pathlib import Path

import pytest

from tests.support.forks import fork
from tests.support.responding import KEPT, answers, arguments, check_conversations
from tests.support.serving import Server

pytestmark = pytest.mark.engine


def respond(command: list[str], directory: Path) -> str:
    """Run `traitwatch respond`; return its messages in one line."""
    done = fork(command, {**os.environ, "HF_HUB_OFFLINE": "1"}, directory)
    printed = done.error.read_text() if done.wait(400) is not None else "the command does not end"
    assert done.wait(0) == 0, printed
    return " ".join(printed.split())


def test_a_server_answers_the_conversations_and_is_not_asked_twice(
    model: Path, embedded: Server, tmp_path: Path
) -> None:
    command = arguments(model, tmp_path / "served", "--endpoint", embedded.url)
    printed = respond(command, tmp_path)
    assert "20 calls" in printed
    assert f"{embedded.url}/v1 is a Traitwatch server" in printed
    rows = answers(model, tmp_path / "served")
    check_conversations(rows, model)

    assert KEPT in respond(command, tmp_path)
    assert answers(model, tmp_path / "served") == rows
