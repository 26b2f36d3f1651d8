"""Runs the real Prometheus and Alertmanager with the shipped files, while a test or a demonstration lasts.

`traitwatch rules` writes the files with shorter durations. This module then sets the values that differ by machine:
addresses, receivers and scrape interval. Both programs listen on free ports of 127.0.0.1 and store all files in one
directory.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml

from traitwatch.network import client_options
from traitwatch.processes import free_port, running
from traitwatch_dashboards.errors import DashboardError
from traitwatch_dashboards.prometheus.rules import write_files

_START_TIMEOUT = 60.0
# Scrapes and evaluations do not follow the speed-up: a server can answer /metrics once a second without load.
_INTERVAL = "1s"


@dataclass(frozen=True)
class Programs:
    """The paths of the programs Prometheus and Alertmanager."""

    prometheus: str
    alertmanager: str


@dataclass(frozen=True)
class Monitoring:
    """A running Prometheus and Alertmanager.

    Attributes:
        prometheus: URL of Prometheus.
        alertmanager: URL of Alertmanager.
        directory: directory of their configuration, data and logs (`*.log`).
    """

    prometheus: str
    alertmanager: str
    directory: Path

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and the value of each series of an instant query."""
        found = self._get("query", query=expression)["result"]
        return [(sample["metric"], float(sample["value"][1])) for sample in found]

    def firing(self) -> list[dict[str, str]]:
        """Return the labels of the alerts that fire now, whether Alertmanager sends or inhibits them."""
        return [alert["labels"] for alert in self._get("alerts")["alerts"] if alert["state"] == "firing"]

    def _get(self, path: str, **query: str) -> Any:
        url = f"{self.prometheus}/api/v1/{path}"
        answer = httpx.get(url, params=query, timeout=10, **client_options(url))
        if answer.is_error:
            raise DashboardError(f"Prometheus answered {answer.status_code}: {answer.text}")
        return answer.json()["data"]


def find_programs() -> Programs:
    """Return where the programs are; raise `DashboardError`, saying how to install them, where one is missing."""
    prometheus = shutil.which("prometheus")
    # The first name is Debian's; the second is that of the project's own releases.
    alertmanager = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    if prometheus is None or alertmanager is None:
        missing = "prometheus" if prometheus is None else "prometheus-alertmanager"
        raise DashboardError(
            f"{missing} is not installed: on Debian and Ubuntu, apt-get install prometheus prometheus-alertmanager"
        )
    return Programs(prometheus, alertmanager)


@contextmanager
def monitoring(servers: Sequence[str], webhook: str, directory: Path, *, speed_up: float) -> Iterator[Monitoring]:
    """Scrape servers every second, evaluate the shipped rules, and post their alerts to a webhook.

    Args:
        servers: URLs of the servers whose `/metrics` are scraped.
        webhook: URL to which Alertmanager posts alerts of every severity.
        directory: an empty directory; the logs stay in it.
        speed_up: divisor of the durations in the shipped files.

    Raises:
        DashboardError: a program is not installed.
        ProcessError: a program did not start.
    """
    programs = find_programs()
    scrape, _, _, routing = write_files(directory, speed_up=speed_up)
    _adapt_routing(routing, webhook)
    # Without a cluster, because a cluster would listen on another port.
    alone = (f"--storage.path={directory / 'alertmanager-data'}", "--cluster.listen-address=")
    storage = (f"--storage.tsdb.path={directory / 'prometheus-data'}", "--enable-feature=exemplar-storage")
    with _program("Alertmanager", programs.alertmanager, routing, directory, *alone) as alertmanager:
        _adapt_scraping(scrape, servers, alertmanager)
        with _program("Prometheus", programs.prometheus, scrape, directory, *storage) as prometheus:
            yield Monitoring(prometheus, alertmanager, directory)


@contextmanager
def _program(name: str, program: str, config: Path, directory: Path, *options: str) -> Iterator[str]:
    """Run Prometheus or Alertmanager on a free port; yield its address when it answers."""
    address = f"127.0.0.1:{free_port()}"
    command = [program, f"--config.file={config}", f"--web.listen-address={address}", *options]
    log = directory / f"{name.lower()}.log"
    with running(name, command, log, ready=f"http://{address}/-/ready", timeout=_START_TIMEOUT):
        yield f"http://{address}"


def _adapt_scraping(path: Path, servers: Sequence[str], alertmanager: str) -> None:
    config = yaml.safe_load(path.read_text("utf-8"))
    config["global"] |= {"scrape_interval": _INTERVAL, "evaluation_interval": _INTERVAL}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [urlsplit(server).netloc for server in servers]}]
    config["alerting"]["alertmanagers"][0]["static_configs"] = [{"targets": [urlsplit(alertmanager).netloc]}]
    path.write_text(yaml.safe_dump(config), "utf-8")


def _adapt_routing(path: Path, webhook: str) -> None:
    config = yaml.safe_load(path.read_text("utf-8"))
    for receiver in config["receivers"]:
        receiver["webhook_configs"] = [{"url": webhook, "send_resolved": True}]
    path.write_text(yaml.safe_dump(config), "utf-8")
