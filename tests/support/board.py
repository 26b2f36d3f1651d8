"""Reads the Grafana dashboard for its tests: the queries as Grafana sends them, and the metrics that exist."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.registry import Collector

from tests.support.traits import served_trait, uncalibrated
from traitwatch_server.metrics import Metrics

MODEL = "tiny-model"
TRAITS = ("paternalism", "power-seeking")


@dataclass(frozen=True)
class Query:
    """A query of the dashboard: its owner, and its PromQL with Grafana's variables."""

    owner: str
    expr: str

    def filled(self, *, rate_window: str = "1m", range_window: str = "6h") -> str:
        """Return the PromQL that Grafana sends when all traits are chosen."""
        expr = self.expr.replace("$__rate_interval", rate_window).replace("$__range", range_window)
        expr = expr.replace("$model_name", MODEL).replace("$trait", ".*")
        assert "$" not in expr, f"{self.owner}: {self.expr} has a variable that the dashboard does not have"
        return expr


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the panels without the titles of the rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries(board: dict[str, Any]) -> list[Query]:
    """Return the queries of all panels, annotations and variables."""
    found = [Query(panel["title"], target["expr"]) for panel in panels(board) for target in panel["targets"]]
    found += [Query(annotation["name"], annotation["expr"]) for annotation in board["annotations"]["list"]]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            label_values = re.fullmatch(r"label_values\((.*), \w+\)", variable["query"]["query"])
            assert label_values, variable["query"]
            found.append(Query(variable["name"], label_values[1]))
    return found


def traitwatch_metrics(registry: CollectorRegistry) -> Metrics:
    """Return the server's own metrics with two engines, two traits, and a third trait without calibration."""
    metrics = Metrics(registry, MODEL, ("0", "1"))
    metrics.show([*map(served_trait, TRAITS), uncalibrated(served_trait("uncalibrated"))])
    return metrics


def vllm_metrics(registry: CollectorRegistry) -> dict[str, Any]:
    """Return metrics of one engine by name, with the names and types of vLLM's source."""
    kinds = {"gauge": Gauge, "counter": Counter, "histogram": Histogram}
    return {
        name: kinds[kind](name, "vLLM's.", ["model_name", "engine"], registry=registry).labels(MODEL, "0")
        for kind, name in vllm_names()
    }


def vllm_names() -> Iterator[tuple[str, str]]:
    """Yield the kind and the name of each metric that vLLM makes for every engine."""
    package = find_spec("vllm")
    assert package is not None
    assert package.submodule_search_locations is not None
    source = Path(package.submodule_search_locations[0], "v1", "metrics", "loggers.py").read_text(encoding="utf-8")
    # A metric with more labels than those of the engine is left out: a sum over engines would mix its label values.
    for block in re.finditer(
        r'self\._(gauge|counter|histogram)_cls\(\s*name="(vllm:\w+)",(.*?)\n        \)', source, re.S
    ):
        if re.search(r"labelnames=labelnames,", block[3]):
            yield block[1], block[2]


class Scraped(Collector):
    """The samples that a Prometheus scrapes from a registry. In OpenMetrics, signed histograms have only buckets."""

    def __init__(self, registry: CollectorRegistry):
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            if any(sample.labels.get("le", "").startswith("-") for sample in family.samples):
                family.samples = [sample for sample in family.samples if sample.name.endswith("_bucket")]
            yield family


def labels_by_sample(registry: CollectorRegistry) -> dict[str, set[str]]:
    """Return the labels of each scraped sample by the name of the sample."""
    labels: dict[str, set[str]] = {}
    for family in Scraped(registry).collect():
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels
