"""The page and the web application that serves it."""

import pytest

from tests.support.paths import ROOT


def test_the_live_tab_shows_since_when_it_collects() -> None:
    pytest.importorskip("gradio")
    from traitwatch_dashboards.inspector.api.client import Server
    from traitwatch_dashboards.inspector.app import blocks
    from traitwatch_dashboards.inspector.tabs.page import Fleet

    page = blocks(Fleet([Server("http://127.0.0.1:1")]))
    texts = " ".join(str(component["props"].get("value")) for component in page.get_config_file()["components"])
    assert "<i>lately</i>: since you opened this tab, at most 5 minutes" in texts
    assert "Since you opened this tab, in steps" in texts
    assert "when responses have ended<br>since you opened this tab" in texts


def test_the_page_loads_nothing_from_elsewhere() -> None:
    inspector = ROOT / "dashboards" / "traitwatch_dashboards" / "inspector"
    loaded = [path for kind in ("js", "css", "html") for path in inspector.rglob(f"*.{kind}")]
    assert len(loaded) >= 7
    for path in loaded:
        text = path.read_text()
        assert "https://" not in text
        assert "innerHTML" not in text


def test_the_page_has_our_icon_and_no_tags_for_social_networks() -> None:
    pytest.importorskip("gradio")
    from fastapi.testclient import TestClient

    from traitwatch_dashboards.inspector.api.client import Server
    from traitwatch_dashboards.inspector.app import application

    page = TestClient(application([Server("http://127.0.0.1:1", "a-secret")])).get("/")
    assert page.status_code == 200
    assert '<link rel="icon" type="image/svg+xml" href="data:' in page.text
    assert "og:title" not in page.text
    assert "twitter:" not in page.text
    assert "Traitwatch inspector" in page.text
    assert "a-secret" not in page.text


def test_the_page_gives_a_visitor_no_second_session() -> None:
    """Otherwise a message that a visitor sends while the page loads would be lost with the first session."""
    gr = pytest.importorskip("gradio")
    from traitwatch_dashboards.inspector.api.client import Server
    from traitwatch_dashboards.inspector.app import blocks
    from traitwatch_dashboards.inspector.tabs.page import Fleet

    page = blocks(Fleet([Server("http://127.0.0.1:1")]))
    with_state = [fn for fn in page.fns.values() if any(isinstance(output, gr.State) for output in fn.outputs)]
    assert with_state
    held = object()
    assert all(fn.inputs == fn.outputs and fn.fn is not None and fn.fn(held) is held for fn in with_state)


def test_only_visitors_who_logged_in_read_reports() -> None:
    pytest.importorskip("gradio")
    from fastapi.testclient import TestClient

    from traitwatch_dashboards.inspector.api.client import Server
    from traitwatch_dashboards.inspector.app import application

    client = TestClient(application([Server("http://127.0.0.1:1")], auth=("ada", "lovelace")), base_url="https://page")
    assert client.get("/traitwatch/report/0/paternalism").status_code == 401
    assert client.post("/login", data={"username": "ada", "password": "wrong"}).status_code == 400
    assert client.get("/traitwatch/report/0/paternalism").status_code == 401
    assert client.post("/login", data={"username": "ada", "password": "lovelace"}).status_code == 200
    report = client.get("/traitwatch/report/0/paternalism")
    assert report.status_code == 404
    assert "No server answers" in report.text
