"""`TRAITWATCH_CACHE` is the folder of everything that Traitwatch can make again, and a folder without room is named."""

import subprocess
from pathlib import Path

import pytest

from tests.support.imports import PACKAGES, sources
from traitwatch.cache import cache_directory, cache_path
from traitwatch.errors import StorageError
from traitwatch.processes import traitwatch_command


def test_the_variable_names_the_folder_and_the_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAITWATCH_CACHE", str(tmp_path / "new" / "cache"))
    assert cache_path("models") == tmp_path / "new" / "cache" / "models"
    assert not (tmp_path / "new").exists()
    assert cache_directory("doctor", "1") == tmp_path / "new" / "cache" / "doctor" / "1"
    assert (tmp_path / "new" / "cache" / "doctor" / "1").is_dir()


def test_without_the_variable_it_is_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAITWATCH_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert tmp_path in cache_directory().parents


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRAITWATCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"file/x, from TRAITWATCH_CACHE, cannot hold .* Set TRAITWATCH_CACHE to"):
        cache_directory("x")


@pytest.mark.parametrize("command", [("model",), ("demo", "--once")])
@pytest.mark.parametrize("variable", ["TRAITWATCH_CACHE", "HOME"])
def test_a_command_without_a_writable_cache_ends_in_a_sentence(
    command: tuple[str, ...], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TRAITWATCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "/proc/none")
    done = subprocess.run(traitwatch_command(*command), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Set TRAITWATCH_CACHE to a folder into which files can be written." in " ".join(done.stderr.split())


def test_nothing_else_asks_for_the_users_cache_folder() -> None:
    users = [module for module, path in sources(PACKAGES).items() if "platformdirs" in path.read_text()]
    assert users == ["traitwatch.cache"]
