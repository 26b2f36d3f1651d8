"""From a chat to the webhook: the real server, Prometheus and Alertmanager, with the shipped rules.

Everything is real. Only time is shorter: with `traitwatch rules --speed-up`, an hour of the rules takes a minute. The
worker is the server's own, but stops sending its projections on command.
"""

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.faults import VARIABLE
from tests.support.serving import MODEL_NAME, Server, serving
from tests.support.waiting import until
from traitwatch import vectors
from traitwatch_builder.models.embedded import embedded_model
from traitwatch_dashboards.demo.alert_chats import burst_chats, ordinary_chats
from traitwatch_dashboards.demo.monitoring import Monitoring, monitoring
from traitwatch_dashboards.demo.webhook import Notice, Webhook, webhook_receiver
from traitwatch_dashboards.example_chats import Chat

pytestmark = pytest.mark.engine

SHIPPED = vectors.SHIPPED / "SmolLM2-135M-Instruct"
SPEED_UP = 60
ALERT_TIMEOUT = 60.0
RESOLUTION_TIMEOUT = 150.0
# Seconds without an alert after ordinary chats. In this time every rule is evaluated, for longer than its `for`.
QUIET_SECONDS = 15.0
# Numbers of chats: before the burst, in the burst, ordinary ones among those of the burst, and after the burst until
# the alert is resolved. These are too few for a baseline: the server reports drift after 200 responses, and the rules
# report a shift after 100 responses that are half an hour (30 s) old. The burst ends an hour of 80 responses. 12 spikes
# among them (14.4 %) are a page. By the shares in `traitwatch_dashboards.demo.alert_chats`, one run in 10,000 has fewer
# spikes, and one in 2,000 has the 10 spikes of a neighbouring trait that are a ticket.
ORDINARY, BURST, AMONG, RECOVERY = 32, 32, 16, 24
AT_ONCE = 32
MONITOR_ALERTS = {"TraitwatchCoverageLow", "TraitwatchSilent", "TraitwatchServerSilent"}


@dataclass(frozen=True)
class Operated:
    """A server that Prometheus monitors.

    Attributes:
        server: the server.
        fault: the file with the worker's command.
        webhook: the receiver of the alerts.
        monitoring: Prometheus and Alertmanager.
    """

    server: Server
    fault: Path
    webhook: Webhook
    monitoring: Monitoring

    def chat(self, chats: list[Chat]) -> None:
        """Send chats and wait for the answers."""
        asyncio.run(self._answers(chats))

    async def _answers(self, chats: list[Chat]) -> None:
        at_once = asyncio.Semaphore(AT_ONCE)
        async with self.server.async_client() as client:

            async def answer(messages: Chat) -> None:
                async with at_once:
                    await client.chat.completions.create(
                        model=MODEL_NAME,
                        messages=messages,  # type: ignore[arg-type]
                        max_tokens=60,
                        temperature=0.7,
                        top_p=0.9,
                    )

            await asyncio.gather(*(answer(messages) for messages in chats))

    def responses(self) -> float:
        """Return how many responses the alerts count in the last hour of the rules."""
        ((_, count),) = self.monitoring.query('model_trait:traitwatch_responses:increase1h{trait="paternalism"}')
        return count


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    directory = tmp_path_factory.mktemp("alerts")
    fault = directory / "fault"
    os.environ[VARIABLE] = str(fault)
    command = [sys.executable, "-m", "tests.support.faults", "serve", str(embedded_model()), "--traits", str(SHIPPED)]
    with (
        serving([*command, "--enforce-eager"], directory / "server.log") as server,
        webhook_receiver() as webhook,
        monitoring([server.url], webhook.url, directory / "monitoring", speed_up=SPEED_UP) as programs,
    ):
        yield Operated(server, fault, webhook, programs)
    del os.environ[VARIABLE]


def fired(notices: list[Notice]) -> set[tuple[str, str | None]]:
    """Return the alerts that fired among notices, with their traits."""
    return {(notice.name, notice.labels.get("trait")) for notice in notices if notice.status == "firing"}


def test_ordinary_chats_fire_no_alert(operated: Operated) -> None:
    operated.chat(ordinary_chats(ORDINARY))
    until(lambda: operated.responses() >= 30, 20, operated.responses)
    ended = time.monotonic()
    while time.monotonic() < ended + QUIET_SECONDS:
        assert operated.monitoring.firing() == []
        time.sleep(0.5)
    assert operated.webhook.notices() == []


def test_a_burst_of_paternalistic_chats_fires_the_paternalism_alert_and_no_other(operated: Operated) -> None:
    before = len(operated.webhook.notices())
    until(lambda: operated.monitoring.firing() == [], RESOLUTION_TIMEOUT, operated.monitoring.firing)
    # Ordinary chats are among those of the burst, as in production. Otherwise some spikes of a neighbouring trait could
    # page too.
    burst, among = burst_chats(BURST), ordinary_chats(AMONG)
    operated.chat([chat for i in range(AMONG) for chat in (burst[2 * i], among[i], burst[2 * i + 1])])
    began = time.monotonic()
    fast = operated.webhook.wait_for(
        lambda n: (n.name, n.labels.get("trait"), n.status) == ("TraitSpikesFast", "paternalism", "firing"),
        began + ALERT_TIMEOUT - time.monotonic(),
    )
    assert fast is not None, operated.monitoring.query("model_trait:traitwatch_responses_over_threshold:ratio_rate1h")
    assert fast.labels["model_name"] == MODEL_NAME
    assert fast.labels["severity"] == "page"
    assert fast.annotations["runbook_url"].endswith("#traitspikesfast")
    operated.chat(ordinary_chats(RECOVERY))
    resolved = operated.webhook.wait_for(
        lambda n: (n.name, n.labels.get("trait"), n.status) == ("TraitSpikesFast", "paternalism", "resolved"),
        RESOLUTION_TIMEOUT,
    )
    assert resolved is not None, operated.monitoring.firing()
    # While the page fires, Alertmanager holds back the slow burn of the same trait.
    fired_alerts = fired(operated.webhook.notices()[before:])
    assert fired_alerts - {("TraitSpikesSlow", "paternalism")} == {("TraitSpikesFast", "paternalism")}


def test_stopping_the_scorer_fires_coverage_and_its_return_resolves_it(operated: Operated) -> None:
    until(lambda: operated.monitoring.firing() == [], RESOLUTION_TIMEOUT, operated.monitoring.firing)
    before = len(operated.webhook.notices())
    operated.fault.write_text("break")
    low = None
    deadline = time.monotonic() + ALERT_TIMEOUT
    while low is None and time.monotonic() < deadline:
        operated.chat(ordinary_chats(AT_ONCE))
        low = operated.webhook.wait_for(lambda n: (n.name, n.status) == ("TraitwatchCoverageLow", "firing"), 0)
    assert low is not None, operated.monitoring.query("model:traitwatch_tokens_scored:ratio_increase15m")
    assert low.labels["severity"] == "ticket"
    operated.fault.unlink()
    operated.chat(ordinary_chats(RECOVERY))
    resolved = operated.webhook.wait_for(
        lambda n: (n.name, n.status) == ("TraitwatchCoverageLow", "resolved"), RESOLUTION_TIMEOUT
    )
    assert resolved is not None, operated.monitoring.firing()
    # Without scores the monitor is also silent. No alert names a trait.
    assert {name for name, _ in fired(operated.webhook.notices()[before:])} <= MONITOR_ALERTS
