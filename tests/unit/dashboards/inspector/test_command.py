"""The options of `traitwatch ui`."""

import pytest
from click.testing import CliRunner

from traitwatch_dashboards.errors import DashboardError
from traitwatch_dashboards.inspector.command import keys_of, login, ui


class TestCommand:
    def test_one_key_serves_all_servers_and_several_keys_one_server_each(self) -> None:
        assert keys_of(("a", "b"), ()) == [None, None]
        assert keys_of(("a", "b"), ("k",)) == ["k", "k"]
        assert keys_of(("a", "b"), ("k", "l")) == ["k", "l"]
        with pytest.raises(DashboardError, match="3 API keys for 2 servers"):
            keys_of(("a", "b"), ("k", "l", "m"))

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
        assert "is not an address" in result.output
