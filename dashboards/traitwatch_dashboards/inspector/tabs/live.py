"""The tab Live: the traffic of a server over the last minutes, from its metrics, and its latest spikes."""

import html
import json
import time
from collections import deque
from datetime import UTC, datetime
from typing import Any

import gradio as gr
import pandas as pd

from traitwatch_dashboards.inspector.api.client import Server
from traitwatch_dashboards.inspector.api.problems import TROUBLE, problem
from traitwatch_dashboards.inspector.api.traffic import Counts, TrafficSample, parse_sample, recent
from traitwatch_dashboards.inspector.scored.session import VisitorSession
from traitwatch_dashboards.inspector.scored.spike_events import read_spikes, spikes_table
from traitwatch_dashboards.inspector.scored.tables import number, table_html
from traitwatch_dashboards.inspector.tabs.components import figure, fragment
from traitwatch_dashboards.inspector.tabs.page import QUIET, Page, server_choice

# Seconds between two samples of the server's metrics, while the tab is open.
_INTERVAL = 5.0
# Samples that a session holds: one hour.
_SAMPLES = 720
# Seconds of traffic that the table calls "lately".
_RECENT = 300.0


class LiveTab:
    """The components of the tab, and the method that looks at the server.

    Attributes:
        server: the choice of a server.
        traffic: the table of the traffic.
        lines: the figure of the mean z over time.
        spikes: the table of the latest spikes.
    """

    def __init__(self, page: Page, tab: gr.Tab):
        """Build the tab where a layout is open.

        Args:
            page: the page.
            tab: the tab; the timer starts when a visitor opens it.
        """
        self._fleet = page.fleet
        self.server = server_choice(page.fleet)
        fragment(
            '<h2 class="tw-section">Traffic</h2>'
            '<p class="tw-quiet">Since the server started; <i>lately</i>: since you opened this tab, '
            f"at most {_RECENT / 60:.0f} minutes.</p>"
        )
        self.traffic = fragment(elem_id="live-traffic")
        fragment(
            '<h2 class="tw-section">Mean z of responses</h2>'
            '<p class="tw-quiet">Since you opened this tab, in steps of half a minute.</p>'
        )
        self.lines = figure(_figure([]), "live-lines")
        fragment('<h2 class="tw-section">Latest spikes</h2>')
        self.spikes = fragment(elem_id="live-spikes")
        timer = gr.Timer(_INTERVAL, active=False)
        outputs = [self.traffic, self.lines, self.spikes]
        for trigger in (timer.tick, self.server.change, tab.select):
            trigger(self.look, [page.session, self.server], outputs, **QUIET)
        tab.select(lambda: gr.Timer(active=True), None, timer, **QUIET)

    async def look(self, session: VisitorSession, url: str) -> list[str]:
        """Take a sample of the server's metrics, and return the traffic, the lines and the latest spikes.

        Args:
            session: the visitor's session, which holds the earlier samples.
            url: address of the server.
        """
        server = self._fleet[url]
        try:
            now = parse_sample(await server.text("/metrics"), time.time())
        except TROUBLE as error:
            return [_problem_box(problem(error, server.url)), _figure([]), ""]
        samples = session.samples.setdefault(server.url, deque(maxlen=_SAMPLES))
        samples.append(now)
        return [_traffic(samples), _figure(samples), await _spikes(server)]


def _problem_box(text: str) -> str:
    return f'<p class="tw-problem" role="alert">{html.escape(text)}</p>'


def _traffic(samples: "deque[TrafficSample]") -> str:
    """Return the table of the traffic, a row for each trait: since the server started, and lately."""
    now = samples[-1]
    before = next((s for s in samples if now.time - s.time <= _RECENT), now)
    rows = []
    for name, counts in now.traits.items():
        lately = counts.since(before.traits.get(name, Counts()))
        rows.append(
            {
                "trait": name,
                "responses": f"{counts.responses:.0f}",
                "lately": f"{lately.responses:.0f}",
                "mean z": number(counts.mean_z, sign=True),
                "mean z lately": number(lately.mean_z, sign=True),
                "with a spike": _share(counts.spike_rate),
                "with a spike lately": _share(lately.spike_rate),
                "drift": number(now.drift.get(name) if counts.responses else None, sign=True),
            }
        )
    if not rows:
        return '<p class="tw-quiet">The server counts no traits.</p>'
    quiet = (
        f'<p class="tw-quiet">{now.running:.0f} requests are being answered. <i>Drift</i>: the difference '
        "between the last minutes and the last hours, in standard errors.</p>"
    )
    return table_html(pd.DataFrame(rows), "Traffic of each trait") + quiet


def _share(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.1f} %"


def _figure(samples: "deque[TrafficSample] | list[TrafficSample]") -> str:
    """Return the figure of the mean z over time, a line for each trait, as JSON for Plotly."""
    steps = recent(list(samples))
    now = samples[-1].time if samples else time.time()
    names = list(samples[-1].traits) if samples else []
    data: list[dict[str, Any]] = [
        {
            "x": [datetime.fromtimestamp(step.time, UTC).strftime("%Y-%m-%d %H:%M:%S") for step in steps],
            "y": [step.mean_z.get(name) for step in steps],
            "name": name,
            "mode": "lines+markers",
            "palette": i,
            "connectgaps": True,
            "hovertemplate": "%{y:+.2f}",
        }
        for i, name in enumerate(names)
    ]
    layout = {
        "showlegend": bool(steps),
        "legend": {"orientation": "h", "y": 1.05, "yanchor": "bottom", "x": 0},
        "margin": {"l": 44, "r": 12, "t": 30, "b": 36},
        "xaxis": {"type": "date", "title": {"text": "UTC", "font": {"size": 11}}},
        "yaxis": {"title": {"text": "mean z", "font": {"size": 11}}, "rangemode": "tozero"},
    }
    if not steps:
        ends = [datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d %H:%M:%S") for t in (now - _RECENT, now)]
        layout |= {
            "xaxis": {"type": "date", "range": ends},
            "yaxis": {"title": {"text": "mean z", "font": {"size": 11}}, "range": [-2, 2]},
            "annotations": [
                {
                    "text": "The first point comes when responses have ended<br>since you opened this tab.",
                    "showarrow": False,
                    "xref": "paper",
                    "yref": "paper",
                    "x": 0.5,
                    "y": 0.6,
                }
            ],
        }
    return json.dumps({"data": data, "layout": layout})


async def _spikes(server: Server) -> str:
    try:
        events = await read_spikes(server)
    except TROUBLE as error:
        return f'<p class="tw-quiet">The latest spikes cannot be read: {html.escape(problem(error, server.url))}</p>'
    if not events:
        return (
            '<p class="tw-quiet">None yet. A spike is a run of tokens whose smoothed z stays above the threshold.</p>'
        )
    return table_html(spikes_table(events), "Latest spikes")
