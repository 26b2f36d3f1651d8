"""Runs the real Prometheus and Alertmanager with the shipped files, as long as a test or a demo lasts.

The files are those of `traitwatch rules`, sped up; only what a machine has of its own (addresses, receivers, how often
to scrape) is put in afterwards. Both programs listen on free ports of 127.0.0.1 and keep everything in one directory.
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

from traitwatch.processes import free_port, running
from traitwatch_dashboards.errors import DashboardError
from traitwatch_dashboards.prometheus.rules import write_files

_START_TIMEOUT = 60.0
# Scrapes and evaluations are not sped up with the rest: a second is what a server's /metrics comfortably bears.
_INTERVAL = "1s"


@dataclass(frozen=True)
class Programs:
    """Where Prometheus and Alertmanager are installed."""

    prometheus: str
    alertmanager: str


@dataclass(frozen=True)
class Monitoring:
    """A running Prometheus and Alertmanager.

    Attributes:
        prometheus: URL of Prometheus.
        alertmanager: URL of Alertmanager.
        directory: where their configuration, data and logs (`*.log`) are.
    """

    prometheus: str
    alertmanager: str
    directory: Path

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and the value of each series of an instant query."""
        answer = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": expression}, timeout=10)
        return [(sample["metric"], float(sample["value"][1])) for sample in _data(answer)["result"]]

    def firing(self) -> list[dict[str, str]]:
        """Return the labels of the alerts that fire now, whether Alertmanager passes them on or not."""
        answer = httpx.get(f"{self.prometheus}/api/v1/alerts", timeout=10)
        return [alert["labels"] for alert in _data(answer)["alerts"] if alert["state"] == "firing"]


def find_programs() -> Programs:
    """Return where the programs are; raise `DashboardError`, saying how to install them, where one is missing."""
    prometheus = shutil.which("prometheus")
    # Debian's name, and that of the project's own releases.
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
        servers: URLs of servers whose `/metrics` are scraped.
        webhook: URL to which Alertmanager posts, whatever the severity.
        directory: an empty directory; logs stay in it.
        speed_up: what the durations of the shipped files are divided by.

    Raises:
        DashboardError: a program is not installed.
        ProcessError: a program did not start.
    """
    programs = find_programs()
    scrape, _, _, routing = write_files(directory, speed_up=speed_up)
    _adapt_routing(routing, webhook)
    # Without a cluster, which would listen on a port of its own.
    alone = (f"--storage.path={directory / 'alertmanager-data'}", "--cluster.listen-address=")
    kept = (f"--storage.tsdb.path={directory / 'prometheus-data'}", "--enable-feature=exemplar-storage")
    with _program("Alertmanager", programs.alertmanager, routing, directory, *alone) as alertmanager:
        _adapt_scraping(scrape, servers, alertmanager)
        with _program("Prometheus", programs.prometheus, scrape, directory, *kept) as prometheus:
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


def _data(answer: httpx.Response) -> Any:
    if answer.is_error:
        raise DashboardError(f"Prometheus answered {answer.status_code}: {answer.text}")
    return answer.json()["data"]
