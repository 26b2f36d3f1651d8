"""The queries of the Grafana dashboard on the real Prometheus. promtool accepts them, and every query finds a series.

The metrics are the server's own, with known values. Beside them are metrics with the names and types of vLLM's source.
"""

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry, MetricsHandler

from tests.support.board import TRAITS, Query, Scraped, queries, traitwatch_metrics, vllm_metrics
from traitwatch.processes import free_port, running
from traitwatch_dashboards.demo.monitoring import find_programs
from traitwatch_dashboards.grafana.dashboard import FILE
from traitwatch_server.metrics import INCOMPLETE, Metrics

BOARD = json.loads(FILE.read_text(encoding="utf-8"))
# Four scrape intervals of Prometheus, like $__rate_interval.
WINDOW = "4s"
DEADLINE = 60.0
# By engine and trait. An engine without rows has no drift.
DRIFT = {("0", TRAITS[0]): -4.0, ("1", TRAITS[0]): 2.0, ("0", TRAITS[1]): -1.0, ("1", TRAITS[1]): 3.0}


class TextMetrics(MetricsHandler):
    """Answers only in Prometheus's text format.

    In OpenMetrics, prometheus_client 0.26 writes the names of vLLM's samples with `_` for `:`.
    """

    def do_GET(self) -> None:
        del self.headers["Accept"]
        super().do_GET()


class Traffic:
    """Adds the same responses ten times a second."""

    def __init__(self, metrics: Metrics, vllm: dict[str, Any]):
        self._metrics = metrics
        self._vllm = vllm
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            self._ten_responses()

    def _ten_responses(self) -> None:
        metrics = self._metrics
        for (engine, trait), of_trait in metrics.of_trait.items():
            if trait not in TRAITS:
                continue
            for z in (-0.5,) * 8 + (3.5,) * 2:
                of_trait.mean_z.observe(z)
                of_trait.token_z.observe(z)
            of_trait.responses.inc(10)
            of_trait.z_negative.inc(8 * 0.5)
            of_trait.z_positive.inc(2 * 3.5)
            of_trait.over_threshold.inc(2)
            of_trait.spikes.inc(3)
            of_trait.drift.set(DRIFT.get((engine, trait), 0.0))
            of_trait.ewma.set(0.3)
            of_trait.cusum_up.set(7.0)
            of_trait.cusum_down.set(1.0)
        metrics.tokens_scored["0"].inc(98)
        metrics.tokens_unscored["0", INCOMPLETE[0]].inc(2)
        metrics.responses_incomplete["0", INCOMPLETE[0]].inc()
        metrics.last_score["0"].set(time.time())
        metrics.transport_lag["0"].observe(0.0015)
        metrics.rows_dropped["reader_behind"].inc()
        for metric in self._vllm.values():
            (metric.observe if hasattr(metric, "observe") else metric.inc)(1)


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """Queries a Prometheus that scrapes the traffic every second. Returns the labels and the value of each series."""
    directory = tmp_path_factory.mktemp("prometheus")
    registry = CollectorRegistry()
    metrics, vllm = traitwatch_metrics(registry), vllm_metrics(registry)
    exporter = ThreadingHTTPServer(("127.0.0.1", 0), TextMetrics.factory(Scraped(registry)))
    serving = threading.Thread(target=exporter.serve_forever)
    serving.start()
    config = directory / "prometheus.yml"
    target = f"127.0.0.1:{exporter.server_port}"
    scrape = {"job_name": "traitwatch", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}
    config.write_text(yaml.safe_dump({"scrape_configs": [scrape]}))
    address = f"127.0.0.1:{free_port()}"
    command = [find_programs().prometheus, f"--config.file={config}", f"--web.listen-address={address}"]
    command += [f"--storage.tsdb.path={directory / 'data'}"]
    log = directory / "prometheus.log"

    def series(expression: str) -> list[dict[str, Any]]:
        answer = httpx.post(f"http://{address}/api/v1/query", data={"query": expression}, timeout=10)
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        return [{**one["metric"], "value": float(one["value"][1])} for one in answer.json()["data"]["result"]]

    try:
        with Traffic(metrics, vllm), running("Prometheus", command, log, ready=f"http://{address}/-/ready", timeout=60):

            def series_of_full_windows(expression: str) -> list[dict[str, Any]]:
                # A machine that stands still for seconds leaves a gap in the series. Rates need series without a gap.
                deadline = time.monotonic() + DEADLINE
                while not series("min_over_time(up[5s]) == 1 and count_over_time(up[6s]) >= 6"):
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.2)
                return series(expression)

            yield series_of_full_windows
    finally:
        exporter.shutdown()
        exporter.server_close()
        serving.join()


def test_promtool_accepts_every_query(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    assert promtool, "apt-get install prometheus"
    recorded = [{"record": "a", "expr": query.filled()} for query in queries(BOARD)]
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    # Run without lint: lint complains that all of these rules have one name.
    checked = subprocess.run(
        [promtool, "check", "rules", "--lint=none", rules], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"SUCCESS: {len(recorded)} rules found" in checked.stdout


@pytest.mark.parametrize("query", queries(BOARD), ids=lambda query: query.owner)
def test_every_query_finds_something(query: Query, ask: Callable[[str], list[dict[str, Any]]]) -> None:
    if "ALERTS" in query.expr:
        # This Prometheus has no rules, so it has no alerts. It is enough that it accepts the query.
        ask(query.filled())
        return
    found = ask(query.filled(rate_window=WINDOW, range_window=WINDOW))
    assert found, query
    assert all(one["value"] == one["value"] for one in found), "NaN"


def panel_values(title: str, ask: Callable[[str], list[dict[str, Any]]]) -> dict[tuple[str, ...], float]:
    """Return the values of a panel's first query, by the labels of the query."""
    first = next(query for query in queries(BOARD) if query.owner == title)
    found = ask(first.filled(rate_window=WINDOW, range_window=WINDOW))
    return {tuple(v for k, v in sorted(one.items()) if k != "value"): one["value"] for one in found}


@pytest.mark.parametrize(
    ("title", "value"),
    [
        ("Responses with a spike", 0.2),
        ("Burn of the budget", 20.0),
        ("Top traits", 20.0),
        ("Mean", (2 * 3.5 - 8 * 0.5) / 10),
        # 8 of 10 values are in the bucket from -1 to -0.5. So the median is 5/8 of the way through this bucket.
        ("Median", -1 + 0.5 * 5 / 8),
        ("Recent mean z (EWMA)", 0.3),
    ],
)
def test_traits_have_the_figures_of_the_traffic(
    title: str, value: float, ask: Callable[[str], list[dict[str, Any]]]
) -> None:
    found = panel_values(title, ask)
    assert {labels[0] for labels in found} >= set(TRAITS)
    for trait in TRAITS:
        # Prometheus scrapes the series at slightly different times of the traffic.
        assert found[(trait,)] == pytest.approx(value, rel=0.1)


def test_coverage_is_that_of_the_traffic(ask: Callable[[str], list[dict[str, Any]]]) -> None:
    for title in ("Coverage", "Tokens scored"):
        assert panel_values(title, ask) == {(): pytest.approx(0.98, abs=0.005)}


def test_drift_is_that_of_the_engine_that_drifted_farthest(ask: Callable[[str], list[dict[str, Any]]]) -> None:
    found = panel_values("Recent against long-run mean z", ask)
    assert (found[(TRAITS[0],)], found[(TRAITS[1],)]) == (-4.0, 3.0)
    assert panel_values("Highest CUSUM", ask) == {(): 7.0}


def test_the_panels_count_and_list_the_vectors(ask: Callable[[str], list[dict[str, Any]]]) -> None:
    assert panel_values("Traits loaded", ask) == {(): 3.0}
    assert panel_values("Uncalibrated vectors", ask) == {(): 1.0}
    thresholds = next(query for query in queries(BOARD) if query.owner == "Vectors")
    found = {one["trait"]: one for one in ask(thresholds.filled())}
    assert set(found) == set(TRAITS)
    assert found[TRAITS[0]]["value"] == 2.0
    assert {"layer", "sha256", "calibration_date"} <= set(found[TRAITS[0]])
