"""The options of `traitwatch ui`."""

import os
import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner

from traitwatch.errors import NetworkError
from traitwatch.network import http_address
from traitwatch_dashboards.errors import DashboardError
from traitwatch_dashboards.inspector.command import keys_of, login, ui


class TestCommand:
    def test_one_key_serves_all_servers_and_several_keys_one_server_each(self) -> None:
        assert keys_of(("a", "b"), ()) == [None, None]
        assert keys_of(("a", "b"), ("k",)) == ["k", "k"]
        assert keys_of(("a", "b"), ("k", "l")) == ["k", "l"]
        with pytest.raises(DashboardError, match="3 API keys for 2 servers"):
            keys_of(("a", "b"), ("k", "l", "m"))
        with pytest.raises(DashboardError, match="3 admin keys for 2 servers"):
            keys_of(("a", "b"), ("k", "l", "m"), "admin")

    @pytest.mark.parametrize("key", ["schlüssel", "a\nb", "\udce4"])
    def test_a_key_that_cannot_be_sent_is_refused(self, key: str) -> None:
        with pytest.raises(NetworkError, match="--admin-key, or TRAITWATCH_ADMIN_KEY, has a character that no key has"):
            keys_of(("a",), (key,), "admin")

    def test_the_spikes_of_all_clients_are_not_shown_to_a_network_without_a_login(self) -> None:
        pytest.importorskip("gradio")
        result = CliRunner().invoke(ui, ["--host", "0.0.0.0"], env={"TRAITWATCH_ADMIN_KEY": "k" * 20})
        assert result.exit_code == 1
        assert "everybody who reaches the port would read the spikes" in result.output
        assert "k" * 20 not in result.output

    def test_the_address_of_the_page_is_one(self) -> None:
        assert http_address("::1", 7860) == "http://[::1]:7860"
        assert http_address("127.0.0.1", 7860) == "http://127.0.0.1:7860"

    def test_a_login_is_user_and_password(self) -> None:
        assert login("ada:love:lace") == ("ada", "love:lace")
        assert login(None) is None
        for wrong in ("ada", ":x", "ada:"):
            with pytest.raises(DashboardError, match="USER:PASSWORD"):
                login(wrong)

    @pytest.mark.parametrize("url", ["localhost:8000", "http://localhost:80a0", "ftp://host", "http://"])
    def test_a_wrong_address_is_refused_at_once(self, url: str) -> None:
        pytest.importorskip("gradio")
        result = CliRunner().invoke(ui, ["--url", url])
        assert result.exit_code == 1
        assert f"--url: '{url}' is not the URL of a server" in result.output

    @pytest.mark.parametrize("port", ["0", "70000", "-5", "http"])
    def test_a_wrong_port_is_refused(self, port: str) -> None:
        result = CliRunner().invoke(ui, ["--port", port])
        assert result.exit_code == 2
        assert "Invalid value for '--port'" in result.output

    def test_a_port_or_an_address_that_the_page_cannot_have_is_refused(self) -> None:
        pytest.importorskip("gradio")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            result = CliRunner().invoke(ui, ["--port", str(port)])
            assert result.output == (
                f"Error: port {port} of 127.0.0.1 is taken by another program; end that program, or choose another "
                "port.\n"
            )
            assert result.exit_code == 1
        result = CliRunner().invoke(ui, ["--host", "192.0.2.1"])
        assert "port 7860 of 192.0.2.1 cannot be used: Cannot assign requested address" in result.output

    def test_a_variable_that_gradio_cannot_read_is_a_sentence(self) -> None:
        pytest.importorskip("gradio")
        done = subprocess.run(
            [sys.executable, "-P", "-m", "traitwatch", "ui"],
            env={**os.environ, "GRADIO_SERVER_PORT": "many"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 1
        assert done.stderr.startswith("Error: Gradio, which shows the page, cannot be loaded: ValueError: ")
        assert "Traceback" not in done.stderr
