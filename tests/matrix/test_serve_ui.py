"""`serve --ui` hands its keys to the inspector."""

from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.support.serving import ADMIN_KEY
from traitwatch.processes import free_port
from traitwatch_server.launch.inspector import inspector_beside
from traitwatch_server.launch.vllm_serve import parse_vllm_arguments


def test_the_inspector_gets_its_keys_where_other_users_do_not_see_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TRAITWATCH_ADMIN_KEY", "that of another server")
    args = parse_vllm_arguments(["some/model", "--api-key", "a-clients-key"])
    port = free_port()
    with inspector_beside(args, port, ADMIN_KEY):
        (inspector,) = [child for child in psutil.Process().children() if str(port) in child.cmdline()]
        assert "http://127.0.0.1:8000" in inspector.cmdline()
        assert not any(key in word for word in inspector.cmdline() for key in (ADMIN_KEY, "a-clients-key"))
        environment = inspector.environ()
    assert (environment["TRAITWATCH_API_KEY"], environment["TRAITWATCH_ADMIN_KEY"]) == ("a-clients-key", ADMIN_KEY)
