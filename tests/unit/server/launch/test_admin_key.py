"""The admin key comes from the environment, a file or the command line, and is refused where it guards nothing."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.support.serving import ADMIN_KEY
from traitwatch.cli import main
from traitwatch.vectors import SHIPPED
from traitwatch_server.errors import ConfigError
from traitwatch_server.launch.admin_key import read_admin_key
from traitwatch_server.launch.vllm_serve import check_keys, parse_vllm_arguments
from traitwatch_server.settings import Settings

VECTORS = SHIPPED / "SmolLM2-135M-Instruct"


@pytest.fixture(autouse=True)
def no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRAITWATCH_ADMIN_KEY", "VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def serve(*options: str, **environment: str) -> Result:
    """Run `traitwatch serve` with a model that is not there, so that no engine starts."""
    command = ["serve", "/nowhere", "--traits", str(VECTORS), *options]
    return CliRunner().invoke(main, command, env=environment)


def error_of(result: Result) -> str:
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    return result.output.strip().splitlines()[-1]


def test_a_key_is_read_from_each_place(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{ADMIN_KEY}\n")
    assert read_admin_key(None, None) is None
    assert read_admin_key(ADMIN_KEY, None) == read_admin_key(None, file) == ADMIN_KEY


@pytest.mark.parametrize(
    "key",
    ["", "short", "fifteen-letters", "a key with spaces in it", "schlüssel-schlüssel", "k" * 20 + "\n", "k" * 1025],
)
def test_a_key_that_can_be_guessed_or_cannot_be_sent_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="16 to 1024 printable ASCII characters") as error:
        read_admin_key(key, None)
    assert not key or key not in str(error.value)


@pytest.mark.parametrize("kind", ["large", "a pipe", "a directory", "a device"])
def test_a_file_that_holds_no_key_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    file = Path("/dev/zero") if kind == "a device" else tmp_path / "key"
    if kind == "large":
        file.write_bytes(b"a" * 5_000_000)
    elif kind == "a pipe":
        os.mkfifo(file)
    elif kind == "a directory":
        file.mkdir()
    with pytest.raises(ConfigError, match="16 to 1024" if kind == "large" else "is no regular file"):
        read_admin_key(None, file)


def test_two_keys_are_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(ADMIN_KEY)
    assert "both give a key" in error_of(
        serve("--traits-admin-key-file", str(tmp_path / "key"), TRAITWATCH_ADMIN_KEY=ADMIN_KEY)
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [("nothing", "No such file"), ("", "is no regular file"), ("binary", "not ASCII"), ("empty", "16 to 1024")],
)
def test_a_file_without_a_key_is_refused(name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "empty").touch()
    assert reason in error_of(serve("--traits-admin-key-file", str(tmp_path / name)))


def test_loading_traits_needs_an_admin_key() -> None:
    assert "--traits-admin needs an admin key" in error_of(serve("--traits-admin"))
    assert "--traits-admin needs an admin key" in error_of(serve("--traits-admin", "--ui"))
    assert "'/nowhere'" in error_of(serve("--traits-admin", TRAITWATCH_ADMIN_KEY=ADMIN_KEY))


@pytest.mark.parametrize("where", ["option", "environment"])
def test_an_api_key_of_clients_is_no_admin_key(where: str) -> None:
    options = ["--api-key", "x" * 20, ADMIN_KEY] if where == "option" else []
    environment = {"VLLM_API_KEY": ADMIN_KEY} if where == "environment" else {}
    error = error_of(serve(*options, TRAITWATCH_ADMIN_KEY=ADMIN_KEY, **environment))
    assert "every client would be an operator" in error
    assert ADMIN_KEY not in error


def test_an_empty_api_key_is_refused() -> None:
    """As from `--api-key "$UNSET"`, with which vLLM serves everybody."""
    args = parse_vllm_arguments(["some/model", "--api-key", ""])
    with pytest.raises(ConfigError, match="--api-key is empty"):
        check_keys(args, Settings((VECTORS,)))


def test_the_key_is_not_in_what_a_log_may_show() -> None:
    assert ADMIN_KEY not in repr(Settings((VECTORS,), admin_key=ADMIN_KEY))
