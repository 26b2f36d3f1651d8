"""`serve --ui` gives the inspector an address at which it reaches the server, or refuses to start."""

import pytest
from click.testing import CliRunner

from traitwatch_server.errors import ConfigError
from traitwatch_server.launch.command import serve
from traitwatch_server.launch.inspector import inspector_beside, server_address
from traitwatch_server.launch.vllm_serve import parse_vllm_arguments


def address(*options: str) -> str:
    return server_address(parse_vllm_arguments(["some/model", "--port", "8123", *options]))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("0.0.0.0", "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1"),
        ("::", "[::1]"),
        ("::1", "[::1]"),
        ("fe80::2", "[fe80::2]"),
        ("gpu.example.org", "gpu.example.org"),
        ("", "127.0.0.1"),
    ],
)
def test_the_inspector_gets_the_address_of_the_server(host: str, expected: str) -> None:
    assert address("--host", host) == f"http://{expected}:8123"
    assert address() == "http://127.0.0.1:8123"


@pytest.mark.parametrize("root", ["/", "/api", "/api/", "api", "/v", "/v1/"])
def test_the_inspector_reaches_a_server_behind_a_root_path(root: str) -> None:
    assert address("--root-path", root) == "http://127.0.0.1:8123"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--uds", "/run/vllm.sock"], "--uds /run/vllm.sock: .* leave out --ui or --uds"),
        (["--ssl-certfile", "c.pem", "--ssl-keyfile", "k.pem"], "traitwatch ui --url https://NAME:8123"),
        (["--root-path", "/v1"], "--root-path /v1: .* leave out --ui"),
        (["--root-path", "/v1/traits"], "--root-path /v1/traits: .* leave out --ui"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_server_that_the_inspector_cannot_reach_is_refused(options: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        address(*options)


def test_the_port_of_the_server_is_no_port_for_the_inspector() -> None:
    args = parse_vllm_arguments(["some/model", "--port", "8123"])
    with (
        pytest.raises(ConfigError, match="--ui-port 8123 is the port of the server too"),
        inspector_beside(args, 8123, None),
    ):
        pass


@pytest.mark.parametrize("port", ["-1", "0", "99999"])
def test_a_port_that_does_not_exist_is_refused(port: str) -> None:
    result = CliRunner().invoke(serve, ["some/model", "--traits", "vectors", "--ui", "--ui-port", port])
    assert result.exit_code == 2
    assert "Invalid value for '--ui-port'" in result.output
