"""`follow` finds a page that does not work, and leaves nothing running."""

import os
from pathlib import Path

import psutil
import pytest

from tests.docs.follow import Followed, follow

# No other run of the tests has this command line.
_LONG = f"sleep {987654000 + os.getpid()}"


def _follow(directory: Path, *commands: str, time_limit: float = 60) -> Followed:
    checkout = directory / "checkout"
    checkout.mkdir()
    page = directory / "page.md"
    page.write_text("\n".join(["# A page", "", "```bash", *commands, "```", "", "```text", "no command", "```", ""]))
    return follow(page, checkout, {"NAME": "given"}, time_limit)


def _is_running() -> bool:
    return any(" ".join(process.info["cmdline"] or []) == _LONG for process in psutil.process_iter(["cmdline"]))


def test_commands_share_a_shell(tmp_path: Path) -> None:
    followed = _follow(tmp_path, 'A="$NAME name"', 'echo "a $A" in "${PWD##*/}"')
    assert (followed.status, followed.output, followed.left) == (0, "a given name in checkout\n", [])


@pytest.mark.parametrize("broken", ["false", "false | cat", "ls /nowhere"])
def test_the_first_command_that_fails_is_named_by_its_line(tmp_path: Path, broken: str) -> None:
    followed = _follow(tmp_path, "echo before", broken, "echo after")
    assert followed.status != 0
    assert "before" in followed.output
    assert "page.md:5: failed with status" in followed.output
    assert "after" not in followed.output


def test_a_process_that_is_left_is_named_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.docs.follow._ENDING", 1.0)
    followed = _follow(tmp_path, f"{_LONG} &")
    assert (followed.status, followed.left) == (0, [_LONG])
    assert not _is_running()


def test_a_failure_in_the_middle_leaves_nothing_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.docs.follow._ENDING", 1.0)
    followed = _follow(tmp_path, f"({_LONG} & wait) &", "false")
    assert followed.status != 0
    assert not _is_running()


def test_a_page_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.docs.follow._ENDING", 1.0)
    assert _follow(tmp_path, _LONG, time_limit=1).status < 0
    assert not _is_running()
