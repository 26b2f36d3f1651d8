"""The tab Live, without a browser."""

import dataclasses
import json
from collections.abc import Iterator

import gradio as gr
import pytest

from tests.support.inspected import METRICS, URL, Application, page_of
from traitwatch_dashboards.inspector.api.client import Server
from traitwatch_dashboards.inspector.scored.session import VisitorSession
from traitwatch_dashboards.inspector.tabs.live import LiveTab

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
def tab(application: Application) -> Iterator[LiveTab]:
    with gr.Blocks() as blocks, gr.Tab("Live") as open_tab:
        yield LiveTab(page_of(blocks, application.server(), Server(NOWHERE)), open_tab)


async def test_each_look_adds_a_sample_of_the_server(tab: LiveTab, application: Application) -> None:
    session = VisitorSession()
    application.metrics = METRICS.format(responses=10, z=10)
    await tab.look(session, URL)
    first = session.samples[URL].pop()
    session.samples[URL].append(dataclasses.replace(first, time=first.time - 40))
    application.metrics = METRICS.format(responses=12, z=16)
    application.spikes = [{"event": "spike", "trait": "paternalism", "peak_z": 4.2}]
    traffic, lines, spikes = await tab.look(session, URL)
    assert len(session.samples[URL]) == 2
    cells = [cell.split("</td>")[0] for cell in traffic.split("<td>")[1:]]
    assert cells[:5] == ["paternalism", "12", "2", "+1.33", "+3.00"]
    (line,) = json.loads(lines)["data"]
    assert (line["name"], line["y"]) == ("paternalism", [3.0])
    assert "4.20" in spikes


async def test_without_spikes_the_view_explains_a_spike(tab: LiveTab) -> None:
    _, _, spikes = await tab.look(VisitorSession(), URL)
    assert "None yet" in spikes


async def test_a_server_that_is_gone_shows_the_reason_and_leaves_no_sample(tab: LiveTab) -> None:
    session = VisitorSession()
    problem, _, spikes = await tab.look(session, NOWHERE)
    assert "No server answers" in problem
    assert (spikes, session.samples) == ("", {})


async def test_metrics_that_cannot_be_read_are_a_problem(tab: LiveTab, application: Application) -> None:
    application.metrics = "<html>"
    problem, _, _ = await tab.look(VisitorSession(), URL)
    assert 'role="alert"' in problem


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "this page has no admin key, and only an operator may see the spikes"),
        ("another-key", f"{URL} refuses the admin key of this page"),
        ("the-key", "4.20"),
    ],
)
async def test_without_the_admin_key_the_tab_says_why_there_are_no_spikes(
    given: str | None, message: str, application: Application
) -> None:
    application.admin_key = "the-key"
    application.spikes = [{"event": "spike", "trait": "paternalism", "peak_z": 4.2}]
    with gr.Blocks() as blocks, gr.Tab("Live") as open_tab:
        tab = LiveTab(page_of(blocks, application.server(admin_key=given)), open_tab)
    traffic, _, spikes = await tab.look(VisitorSession(), URL)
    assert message in spikes
    assert "paternalism" in traffic
    assert ("TRAITWATCH_ADMIN_KEY" in spikes) == (given != "the-key")
