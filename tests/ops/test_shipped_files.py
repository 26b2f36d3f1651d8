"""Prometheus and Alertmanager accept the shipped files, and every alert links to its section of the runbooks."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.paths import ROOT
from tests.support.promtool import PROMETHEUS, RULES, groups
from traitwatch_dashboards.prometheus.rules import FILES, RUNBOOKS, write_files

ALERTMANAGER = ROOT / "dashboards" / "traitwatch_dashboards" / "alertmanager" / "alertmanager.yml"


def rules(kind: str) -> list[dict[str, Any]]:
    """Return the rules of one kind, `alert` or `record`, in the shipped files."""
    found = [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]
    return [rule for rule in found if kind in rule]


ALERTS = {rule["alert"]: rule for rule in rules("alert")}


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_takes_the_rules() -> None:
    run("promtool", "check", "rules", "--lint=all", "--lint-fatal", *RULES)


def test_promtool_takes_the_configuration_with_its_rules() -> None:
    output = run("promtool", "check", "config", PROMETHEUS / "prometheus.yml")
    assert "2 rule files found" in output


def test_amtool_takes_the_routing() -> None:
    output = run("amtool", "check-config", ALERTMANAGER)
    assert "4 inhibit rules" in output


@pytest.mark.parametrize("speed_up", [1.0, 7.0, 60.0])
def test_the_written_files_are_taken_too(tmp_path: Path, speed_up: float) -> None:
    scrape, recording, alerts, routing = write_files(tmp_path, speed_up=speed_up, runbooks="https://example.org/r")
    run("promtool", "check", "config", scrape)
    run("promtool", "check", "rules", "--lint=all", "--lint-fatal", recording, alerts)
    run("amtool", "check-config", routing)


@pytest.mark.parametrize("severity", ["page", "ticket", "info"])
def test_each_severity_has_a_receiver_of_its_own(severity: str) -> None:
    receiver = {"page": "pager", "ticket": "tickets", "info": "notes"}[severity]
    output = run("amtool", "config", "routes", "test", f"--config.file={ALERTMANAGER}", f"severity={severity}")
    assert output.strip() == receiver


def test_the_alerts_are_those_that_are_promised() -> None:
    severities = {name: rule["labels"]["severity"] for name, rule in ALERTS.items()}
    assert severities == {
        "TraitSpikesFast": "page",
        "TraitSpikesSlow": "ticket",
        "TraitDrift": "ticket",
        "TraitShift": "ticket",
        "TraitwatchCoverageLow": "ticket",
        "TraitwatchSilent": "page",
        "TraitwatchServerSilent": "ticket",
        "TraitwatchVectorUncalibrated": "info",
        "TraitwatchVectorStale": "ticket",
    }


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_its_labels_its_value_and_its_runbook(name: str) -> None:
    annotations = ALERTS[name]["annotations"]
    assert annotations.keys() == {"summary", "description", "runbook_url"}
    assert "$labels.model_name" in annotations["summary"] or "$labels.instance" in annotations["summary"]
    # The alerts about a vector need no value: their labels have everything.
    values = "$value" in annotations["description"] or "| query" in annotations["description"]
    assert values or name in ("TraitwatchVectorUncalibrated", "TraitwatchVectorStale")
    page, _, anchor = annotations["runbook_url"].partition("#")
    assert page == RUNBOOKS
    headings = re.findall(r"^## (\S+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in {heading.lower() for heading in headings}
    assert anchor == name.lower()


def test_the_runbooks_have_no_section_without_alert() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / RUNBOOKS).read_text(), re.MULTILINE)
    assert set(headings) == ALERTS.keys()


def test_the_runbooks_query_recorded_series() -> None:
    recorded = {rule["record"] for rule in rules("record")}
    named = set(re.findall(r"\bmodel(?:_trait)?:[a-z0-9_]+:[a-z0-9_]+", (ROOT / RUNBOOKS).read_text()))
    assert named
    assert named <= recorded


@pytest.mark.parametrize("rule", rules("record"), ids=lambda rule: rule["record"])
def test_the_name_of_a_recording_rule_has_level_metric_operation_and_windows(rule: dict[str, Any]) -> None:
    level, metric, operation = rule["record"].split(":")
    assert level in ("model", "model_trait")
    assert metric.startswith("traitwatch_")
    windows = re.findall(r"\[(\w+)\]", rule["expr"])
    if windows:
        assert operation.partition("_offset")[0].endswith(windows[0])
        assert len(set(windows)) == 1


def test_the_files_are_all_there_are() -> None:
    shipped = {*PROMETHEUS.glob("*.yml"), *ALERTMANAGER.parent.glob("*.yml")}
    assert shipped == {ROOT / "dashboards" / "traitwatch_dashboards" / name for name in FILES}


def test_the_groups_have_different_names() -> None:
    names = [name for path in RULES for name in groups(path)]
    assert len(set(names)) == len(names)
