"""Runs the shipped rules over made-up time series, by `promtool test rules`."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.support.paths import ROOT

PROMETHEUS = ROOT / "dashboards" / "traitwatch_dashboards" / "prometheus"
RULES = [PROMETHEUS / "recording_rules.yml", PROMETHEUS / "alert_rules.yml"]
MODEL = "m"

Labels = Mapping[str, str]


@dataclass(frozen=True)
class AlertText:
    """An alert that fires, as its reader sees it.

    Attributes:
        minute: the minute at which it fires.
        labels: the labels of the alert, with its name.
        summary: the annotation `summary`.
        description: the annotation `description`.
    """

    minute: int
    labels: Labels
    summary: str
    description: str


def alert(name: str, severity: str, **labels: str) -> Labels:
    """Return the labels of an alert of the model."""
    return {"alertname": name, "severity": severity, "model_name": MODEL, **labels}


def counter(*phases: tuple[int, float]) -> list[float]:
    """Return a counter that begins at 0, minute by minute. Each phase has minutes, and the growth of a minute."""
    values = [0.0]
    for minutes, growth in phases:
        values += [values[-1] + growth * (minute + 1) for minute in range(minutes)]
    return values


def gauge(*phases: tuple[int, float]) -> list[float]:
    """Return a gauge, minute by minute. Each phase has minutes, and the value."""
    return [value for minutes, value in phases for _ in range(minutes)]


def series(name: str, **labels: str) -> str:
    """Return the name of a time series of the model, by default from engine 0 of server `a`."""
    labels = {"job": "traitwatch", "instance": "a", "engine": "0", "model_name": MODEL, **labels}
    return name + _matchers({key: value for key, value in labels.items() if value})


def check(
    directory: Path,
    given: Mapping[str, Sequence[float]],
    firing: Mapping[int, Sequence[Labels]],
    texts: Sequence[AlertText] = (),
) -> None:
    """Assert which alerts fire at each minute, and which texts they have.

    Args:
        directory: where the test's file is written.
        given: time series by name, with one sample a minute.
        firing: minute to the labels of all alerts that fire at this minute. No other alert may fire.
        texts: the expected texts of some of these alerts.
    """
    expected = [
        {
            "expr": 'ALERTS{alertstate="firing"}',
            "eval_time": f"{minute}m",
            "exp_samples": [{"labels": _metric({"alertstate": "firing", **labels}), "value": 1} for labels in alerts],
        }
        for minute, alerts in firing.items()
    ]
    alert_tests = [
        {
            "alertname": text.labels["alertname"],
            "eval_time": f"{text.minute}m",
            "exp_alerts": [
                {
                    "exp_labels": {name: value for name, value in text.labels.items() if name != "alertname"},
                    "exp_annotations": {
                        "summary": text.summary,
                        "description": text.description,
                        "runbook_url": f"docs/runbooks.md#{text.labels['alertname'].lower()}",
                    },
                }
            ],
        }
        for text in texts
    ]
    test = {
        "rule_files": [str(path) for path in RULES],
        "evaluation_interval": "1m",
        # The alerts of a minute read what the recording rules write in this minute.
        "group_eval_order": [group for path in RULES for group in groups(path)],
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": name, "values": " ".join(format(value, ".10g") for value in values)}
                    for name, values in given.items()
                ],
                "promql_expr_test": expected,
                "alert_rule_test": alert_tests,
            }
        ],
    }
    file = directory / "test.yml"
    file.write_text(yaml.safe_dump(test))
    run = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def groups(path: Path) -> list[str]:
    """Return the names of the groups of a rules file."""
    return [group["name"] for group in yaml.safe_load(path.read_text())["groups"]]


def _metric(labels: Labels) -> str:
    return "ALERTS" + _matchers(labels)


def _matchers(labels: Labels) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in labels.items()) + "}"
