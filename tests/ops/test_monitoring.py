"""The real Prometheus and Alertmanager, run by `demo.monitoring` of the dashboards, with made-up metrics."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.exporter import Exporter, exporting
from tests.support.promtool import series
from tests.support.waiting import until
from traitwatch.errors import ProcessError
from traitwatch.processes import free_port, running
from traitwatch_dashboards.demo.monitoring import Monitoring, find_programs, monitoring
from traitwatch_dashboards.demo.webhook import Notice, Webhook, webhook_receiver
from traitwatch_dashboards.errors import DashboardError

# Ten minutes of the rules take six seconds. In this time Prometheus scrapes six times. Where an alert must last, ten
# minutes take twenty seconds.
SPEED_UP, SLOWER = 100, 30
TIMEOUT = 150.0


@dataclass(frozen=True)
class Operated:
    exporter: Exporter
    webhook: Webhook
    monitoring: Monitoring


@pytest.fixture
def operated(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Operated]:
    speed_up = getattr(request, "param", SPEED_UP)
    with (
        exporting() as exporter,
        webhook_receiver() as webhook,
        monitoring([exporter.url], webhook.url, tmp_path, speed_up=speed_up) as programs,
    ):
        yield Operated(exporter, webhook, programs)


def notice(name: str, status: str, **labels: str) -> Callable[[Notice], bool]:
    return lambda n: (n.name, n.status) == (name, status) and labels.items() <= n.labels.items()


def test_an_alert_arrives_with_its_words_and_is_resolved(operated: Operated) -> None:
    bare = series("traitwatch_vector_info", trait="candour", layer="16", calibration_date="")
    operated.exporter.gauge(bare, 1)
    received = operated.webhook.wait_for(notice("TraitwatchVectorUncalibrated", "firing", trait="candour"), TIMEOUT)
    assert received is not None
    assert received.labels["severity"] == "info"
    assert received.annotations["summary"] == "candour of m is not calibrated"
    assert received.annotations["runbook_url"].endswith("#traitwatchvectoruncalibrated")
    assert operated.monitoring.firing() == [dict(received.labels)]
    operated.exporter.gauge(bare, None)
    assert operated.webhook.wait_for(notice("TraitwatchVectorUncalibrated", "resolved"), TIMEOUT) is not None


@pytest.mark.parametrize("operated", [SLOWER], indirect=True, ids=[""])
def test_a_silent_monitor_holds_back_only_the_trait_alerts_of_its_model(operated: Operated) -> None:
    operated.exporter.counter(series("vllm:generation_tokens_total"), 300)
    operated.exporter.counter(series("vllm:request_success_total", finished_reason="stop"), 3)
    assert operated.webhook.wait_for(notice("TraitwatchSilent", "firing"), TIMEOUT) is not None
    for model in ("m", "other"):
        drift = series("traitwatch_drift_cusum", trait="paternalism", direction="up", model_name=model)
        operated.exporter.gauge(drift, 20)
    assert operated.webhook.wait_for(notice("TraitDrift", "firing", model_name="other"), TIMEOUT) is not None

    def drifting() -> set[str]:
        return {alert["model_name"] for alert in operated.monitoring.firing() if alert["alertname"] == "TraitDrift"}

    until(lambda: drifting() == {"m", "other"}, TIMEOUT)
    # The alert of the silent server is held back, because the alert of the silent model includes it.
    assert {n.name for n in operated.webhook.notices() if n.labels["model_name"] == "m"} == {"TraitwatchSilent"}
    expected = {
        ("TraitwatchSilent", "m"): "active",
        ("TraitwatchServerSilent", "m"): "suppressed",
        ("TraitDrift", "m"): "suppressed",
        ("TraitDrift", "other"): "active",
    }
    until(lambda: states(operated, "model_name") == expected, TIMEOUT, lambda: states(operated, "model_name"))


def test_a_page_about_a_trait_holds_back_tickets_that_follow_from_it(operated: Operated) -> None:
    """The page holds back the trait's own slow burn and the drift of any trait, but not another trait's slow burn."""
    operated.exporter.gauge(series("traitwatch_drift_cusum", trait="candour", direction="down"), 0)
    for trait, spiking in (("paternalism", 5.0), ("deception", 1.0)):
        operated.exporter.gauge(series("traitwatch_threshold_rate", engine="", trait=trait), 0.01)
        operated.exporter.counter(series("traitwatch_responses_total", trait=trait), 10)
        operated.exporter.counter(series("traitwatch_responses_over_threshold_total", trait=trait), spiking)
    slow = operated.webhook.wait_for(notice("TraitSpikesSlow", "firing", trait="deception"), TIMEOUT)
    assert slow is not None, "a tenth of the responses must be a ticket"
    fast = operated.webhook.wait_for(notice("TraitSpikesFast", "firing", trait="paternalism"), TIMEOUT)
    assert fast is not None
    assert "had a paternalism spike" in fast.annotations["description"]
    assert not any("error" in text.lower() for text in fast.annotations.values())
    operated.exporter.gauge(series("traitwatch_drift_cusum", trait="candour", direction="down"), 20)
    until(lambda: any(alert["alertname"] == "TraitDrift" for alert in operated.monitoring.firing()), TIMEOUT)
    until(lambda: sum(alert["alertname"] == "TraitSpikesSlow" for alert in operated.monitoring.firing()) == 2, TIMEOUT)
    expected = {
        ("TraitSpikesFast", "paternalism"): "active",
        ("TraitSpikesSlow", "paternalism"): "suppressed",
        ("TraitSpikesSlow", "deception"): "active",
        ("TraitDrift", "candour"): "suppressed",
    }
    until(lambda: states(operated, "trait") == expected, TIMEOUT, lambda: states(operated, "trait"))


def states(operated: Operated, label: str) -> dict[tuple[str, str], str]:
    """Return the state of each alert in Alertmanager, by name and a label. Prometheus sends alerts a little later."""
    found = httpx.get(f"{operated.monitoring.alertmanager}/api/v2/alerts", timeout=TIMEOUT).json()
    return {(alert["labels"]["alertname"], alert["labels"][label]): alert["status"]["state"] for alert in found}


def test_no_process_and_no_port_stays(tmp_path: Path) -> None:
    this_process = psutil.Process()
    before = set(this_process.children(recursive=True))
    with (
        exporting() as exporter,
        webhook_receiver() as webhook,
        monitoring([exporter.url], webhook.url, tmp_path, speed_up=SPEED_UP) as programs,
    ):
        started = set(this_process.children(recursive=True)) - before
        assert len(started) == 4, "there must be two programs, each with its guard"
        urls = [programs.prometheus, programs.alertmanager, webhook.url]
    assert not any(process.is_running() for process in started)
    for url in urls:
        with pytest.raises(httpx.TransportError):
            httpx.get(url)
    assert (tmp_path / "prometheus.log").read_text()
    assert (tmp_path / "alertmanager.log").read_text()


def test_a_program_that_is_missing_is_named_with_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DashboardError, match="apt-get install prometheus prometheus-alertmanager"):
        find_programs()
    (tmp_path / "prometheus").write_text("#!/bin/sh\n")
    (tmp_path / "prometheus").chmod(0o755)
    with pytest.raises(DashboardError, match=r"^prometheus-alertmanager is not installed"):
        find_programs()


@pytest.mark.parametrize(
    ("script", "log_end"),
    [
        ("import sys; sys.exit('the port is taken')", "the port is taken"),
        ("import time; print('thinking', flush=True); time.sleep(600)", "thinking"),
    ],
)
def test_the_error_of_a_program_that_does_not_start_has_the_end_of_its_log(
    tmp_path: Path, script: str, log_end: str
) -> None:
    ready = f"http://127.0.0.1:{free_port()}/"
    with (
        pytest.raises(ProcessError, match=rf"^the program .* answer.*:\n{log_end}"),
        running("the program", [sys.executable, "-c", script], tmp_path / "log", ready=ready, timeout=10),
    ):
        pass
    assert not psutil.Process().children()


def test_a_webhook_takes_notifications_and_nothing_else() -> None:
    with webhook_receiver() as webhook:
        assert httpx.post(webhook.url, content=b"no JSON").status_code == 400
        assert httpx.post(webhook.url, json={"alerts": [{}]}).status_code == 400
        alert = {"status": "firing", "labels": {"alertname": "A"}, "annotations": {}}
        assert httpx.post(webhook.url, json={"alerts": [alert]}).status_code == 200
        assert [n.name for n in webhook.notices()] == ["A"]
        assert webhook.wait_for(lambda n: n.name == "A", 1) == webhook.notices()[0]
        assert webhook.wait_for(lambda n: n.name == "B", 0.1) is None
