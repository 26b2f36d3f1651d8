"""The Grafana dashboard: its file is current, its queries use existing metrics, and its panels are legible."""

import json
import re
import sys
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from click.testing import CliRunner
from prometheus_client import CollectorRegistry

from tests.support.board import Query, labels_by_sample, panels, queries, traitwatch_metrics, vllm_metrics
from tests.support.paths import ROOT
from traitwatch_dashboards.grafana.dashboard import FILE, dashboard_text, make_dashboard, write_dashboard

# The series that Prometheus itself writes for firing alerts.
ALERTS = {"ALERTS": {"alertname", "alertstate", "model_name"}}


@pytest.fixture(scope="module")
def board() -> dict[str, Any]:
    return make_dashboard()


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    """The labels of every sample of a server or of Prometheus, by name. A scrape adds `job` and `instance`."""
    registry = CollectorRegistry()
    traitwatch_metrics(registry)
    vllm_metrics(registry)
    return labels_by_sample(registry) | ALERTS


def nodes(query: Query) -> list[Any]:
    """Return every node of a query."""
    found: list[Any] = []
    promql_parser.walk(promql_parser.parse(query.filled()), pre_visit=found.append)
    return found


def selectors(found: Iterable[Any]) -> list[Any]:
    return [node for node in found if isinstance(node, promql_parser.VectorSelector)]


def test_the_committed_file_is_current() -> None:
    assert FILE.read_text(encoding="utf-8") == dashboard_text(), (
        "run `python -m traitwatch_dashboards.grafana` and commit"
    )


def test_every_query_uses_metrics_and_labels_that_exist(board: dict[str, Any], known: dict[str, set[str]]) -> None:
    for query in queries(board):
        assert selectors(nodes(query)), query
        for selector in selectors(nodes(query)):
            assert selector.name in known, f"{query.owner}: no metric {selector.name}"
            matched = {matcher.name for matcher in selector.matchers.matchers}
            assert matched <= known[selector.name], f"{query.owner}: {selector.name} has not all of {matched}"
            assert "model_name" in matched or query.owner == "model_name", f"{query.owner} mixes models: {query.expr}"


def test_every_aggregation_keeps_labels_that_exist(board: dict[str, Any], known: dict[str, set[str]]) -> None:
    for query in queries(board):
        for node in nodes(query):
            if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
                below: list[Any] = []
                promql_parser.walk(node, pre_visit=below.append)
                for selector in selectors(below):
                    missing = set(node.modifier.labels) - known[selector.name]
                    assert not missing, f"{query.owner}: {selector.name} has no {missing}"


def test_legends_name_labels_that_the_query_keeps(board: dict[str, Any]) -> None:
    for panel in panels(board):
        if panel["type"] in ("timeseries", "bargauge", "heatmap"):
            for target in panel["targets"]:
                for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                    assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]), f"{panel['title']}: {label}"


def test_rates_are_over_grafanas_own_windows(board: dict[str, Any]) -> None:
    for query in queries(board):
        windows = {("rate", "$__rate_interval"), ("increase", "$__range")}
        found = set(re.findall(r"(\w+)\([\w:]+{[^}]*}\[([^\]]*)\]\)", query.expr))
        assert found <= windows, query
        assert query.expr.count("[") == len(re.findall(r"\[\$__(?:rate_interval|range)\]", query.expr)), query


def test_variables_choose_data_source_model_and_traits(board: dict[str, Any]) -> None:
    by_name = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert [*by_name] == ["datasource", "model_name", "trait", "runbooks"]
    assert (by_name["datasource"]["type"], by_name["datasource"]["query"]) == ("datasource", "prometheus")
    assert (by_name["trait"]["multi"], by_name["trait"]["includeAll"]) == (True, True)
    used = [panel["datasource"] for panel in panels(board)]
    used += [annotation["datasource"] for annotation in board["annotations"]["list"]]
    used += [by_name[name]["datasource"] for name in ("model_name", "trait")]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in used)


def test_every_panel_has_a_title_a_description_and_a_unit(board: dict[str, Any]) -> None:
    for panel in panels(board):
        assert panel["title"].strip(), panel
        assert len(panel["description"]) > 40, panel["title"]
        defaults = panel["fieldConfig"]["defaults"]
        unit = defaults.get("unit") or panel["options"].get("cellValues", {}).get("unit")
        assert unit or panel["type"] == "table", panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references)) > 0, panel["title"]
    assert all(panel["title"].strip() for panel in board["panels"])
    titles = [panel["title"] for panel in panels(board)]
    assert len(titles) == len(set(titles))
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))


def test_panels_fill_the_grid_without_covering_each_other(board: dict[str, Any]) -> None:
    places = [(panel["title"], panel["gridPos"]) for panel in board["panels"]]
    for title, place in places:
        # At 1440 pixels, four columns have some 230 pixels: the least for a number. Six have some 350: the least for a
        # graph.
        assert place["w"] >= 4, title
        assert place["x"] + place["w"] <= 24, title
    for (one, a), (other, b) in combinations(places, 2):
        apart_x = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        apart_y = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart_x or apart_y, f"{one} covers {other}"
    lines: dict[int, int] = {}
    for _, place in places:
        lines[place["y"]] = lines.get(place["y"], 0) + place["w"]
    assert set(lines.values()) == {24}, "a line of panels leaves room"


def test_overridden_columns_of_a_table_exist(board: dict[str, Any]) -> None:
    for table in (panel for panel in panels(board) if panel["type"] == "table"):
        [organize] = [t["options"] for t in table["transformations"] if t["id"] == "organize"]
        titles = set(organize["renameByName"].values())
        assert {override["matcher"]["options"] for override in table["fieldConfig"]["overrides"]} <= titles
        letters = {f"Value #{target['refId']}" for target in table["targets"]}
        assert {field for field in organize["renameByName"] if field.startswith("Value")} == letters


def test_every_linked_runbook_exists(board: dict[str, Any]) -> None:
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8"), re.MULTILINE)
    anchors = {heading.lower() for heading in headings}
    linked = [link["url"] for panel in panels(board) for link in panel.get("links", ())]
    assert {url.removeprefix("${runbooks}#") for url in linked} == anchors
    assert [link["url"] for link in board["links"]] == ["${runbooks}"]


def test_the_address_of_the_runbooks_occurs_once(tmp_path: Path) -> None:
    out = tmp_path / "board.json"
    result = CliRunner().invoke(write_dashboard, ["--runbooks", "https://wiki.example.org/runbooks", "--out", str(out)])
    assert result.exit_code == 0, result.output
    text = out.read_text()
    assert text.count("https://wiki.example.org") == 1
    [variable] = [v for v in json.loads(text)["templating"]["list"] if v["name"] == "runbooks"]
    assert (variable["query"], variable["skipUrlSync"]) == ("https://wiki.example.org/runbooks", True)


def test_the_cusum_line_is_at_the_alerts_threshold(board: dict[str, Any]) -> None:
    rules = (ROOT / "dashboards" / "traitwatch_dashboards" / "prometheus" / "alert_rules.yml").read_text(
        encoding="utf-8"
    )
    alert = re.search(r"traitwatch_drift_cusum\) > (\d+)", rules)
    [panel] = [panel for panel in panels(board) if panel["title"] == "CUSUM"]
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert alert
    assert [step["value"] for step in steps] == [None, float(alert[1])]
    assert panel["fieldConfig"]["defaults"]["custom"]["thresholdsStyle"] == {"mode": "dashed"}


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "grafana_foundation_sdk.builders", None)
    result = CliRunner().invoke(write_dashboard, ["--out", str(tmp_path / "board.json")])
    assert result.exit_code == 1
    assert "pip install grafana-foundation-sdk" in result.output


def test_provisioning_files_are_yaml_for_grafana() -> None:
    directory = FILE.parent / "provisioning"
    sources = yaml.safe_load((directory / "datasources" / "traitwatch.yaml").read_text())
    scraping = yaml.safe_load(
        (ROOT / "dashboards" / "traitwatch_dashboards" / "prometheus" / "prometheus.yml").read_text()
    )
    [source] = sources["datasources"]
    assert (sources["apiVersion"], source["type"]) == (1, "prometheus")
    assert source["jsonData"]["timeInterval"] == scraping["global"]["scrape_interval"]
    dashboards = yaml.safe_load((directory / "dashboards" / "traitwatch.yaml").read_text())
    [provider] = dashboards["providers"]
    assert (dashboards["apiVersion"], provider["type"]) == (1, "file")
