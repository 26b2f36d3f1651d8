"""The tab Traits, without a browser."""

from collections.abc import Iterator

import gradio as gr
import pytest

from tests.support.inspected import PATERNALISM, URL, Application, page_of
from traitwatch_dashboards.inspector.api.client import Server
from traitwatch_dashboards.inspector.tabs.traits import TraitsTab

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
def tab(application: Application) -> Iterator[TraitsTab]:
    with gr.Blocks() as blocks, gr.Tab("Traits") as open_tab:
        yield TraitsTab(page_of(blocks, Server(NOWHERE), application.server()), open_tab)


async def test_a_card_links_to_the_report_on_its_server(tab: TraitsTab) -> None:
    cards = await tab.show_server(URL)
    assert "<h2>paternalism</h2>" in cards
    assert 'href="traitwatch/report/1/paternalism"' in cards


async def test_cosines_are_displayed_with_several_traits(tab: TraitsTab, application: Application) -> None:
    assert "Cosines" not in await tab.show_server(URL)
    other = {"id": "deception", "layer": 20, "cosines": {"paternalism": -0.5}}
    application.traits = [{**PATERNALISM, "cosines": {"deception": -0.5}}, other]
    cards = await tab.show_server(URL)
    assert "Cosines" in cards
    assert '<td class="l" style="--s:50%">-0.50</td>' in cards
    assert "it has no z" in cards


async def test_everything_that_a_server_lists_is_escaped(tab: TraitsTab, application: Application) -> None:
    hostile = "<script>alert(1)</script>"
    application.traits = [{**PATERNALISM, "id": hostile, "description": hostile}]
    assert "<script" not in await tab.show_server(URL)


async def test_a_server_that_is_gone_shows_the_reason(tab: TraitsTab) -> None:
    assert "No server answers" in await tab.show_server(NOWHERE)


async def test_a_vector_of_other_weights_says_so(tab: TraitsTab, application: Application) -> None:
    assert "replaced since" not in await tab.show_server(URL)
    application.traits = [{**PATERNALISM, "stale": True}]
    assert "replaced since the vector was loaded" in await tab.show_server(URL)
