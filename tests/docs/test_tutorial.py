"""The tutorial works: its commands run from top to bottom, in one shell, in a clean clone of HEAD.

The clone has only committed files, like the clone of a reader. So commit a change before you test it.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.follow import Followed, follow
from tests.support.examples import need
from tests.support.paths import ROOT
from traitwatch.processes import free_port
from traitwatch.vectors import RESPONSE_AVG, load_vector

_PORTS = {"PORT": 8000, "UI_PORT": 7860, "PROMETHEUS_PORT": 9090, "ALERTMANAGER_PORT": 9093}
_TIME_LIMIT = 4_500
_LOG_LINES = 30

pytestmark = [pytest.mark.engine, pytest.mark.timeout(_TIME_LIMIT + 180)]


@dataclass(frozen=True)
class Tutorial:
    """The tutorial after its last command.

    Attributes:
        checkout: the clone.
        ports: the ports of its servers.
        followed: the result of the page.
    """

    checkout: Path
    ports: list[int]
    followed: Followed

    @property
    def logs(self) -> str:
        """The output of the shell, and the end of each log."""
        logs = sorted((self.checkout / "tutorial").glob("*.log"))
        ends = ["\n".join([f"--- {log.name}", *log.read_text().splitlines()[-_LOG_LINES:]]) for log in logs]
        return "\n".join([self.followed.output, *ends])


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Tutorial:
    need("prometheus", "prometheus-alertmanager")
    checkout = tmp_path_factory.mktemp("clean") / "traitwatch"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(checkout)], check=True)
    ports = {name: str(free_port(port)) for name, port in _PORTS.items()}
    followed = follow(checkout / "docs" / "tutorial.md", checkout, ports, _TIME_LIMIT)
    return Tutorial(checkout, [int(port) for port in ports.values()], followed)


def test_every_command_works(tutorial: Tutorial) -> None:
    assert tutorial.followed.status == 0, tutorial.logs


def test_the_vector_is_usable(tutorial: Tutorial) -> None:
    vectors = tutorial.checkout / "tutorial" / "vectors" / "SmolLM2-135M-Instruct"
    vector = load_vector(vectors / f"paternalism_{RESPONSE_AVG}.pt")
    assert vector.vector.shape == (31, 576)
    assert vector.card is not None
    assert vector.card.verification is not None
    assert vector.card.verification.better_than_null
    calibrated = vector.calibration(20)
    assert calibrated is not None
    assert calibrated.thresholds


def test_the_answer_is_scored(tutorial: Tutorial) -> None:
    assert '"traits":{"paternalism":{"layer":20,' in tutorial.followed.output
    assert '"traits_complete":true' in tutorial.followed.output


def test_the_alert_fires_for_the_trait(tutorial: Tutorial) -> None:
    assert "SmolLM2-135M-Instruct turns to paternalism: " in tutorial.followed.output
    assert "docs/runbooks.md#traitspikesfast" in tutorial.followed.output


def test_nothing_is_left(tutorial: Tutorial) -> None:
    assert tutorial.followed.left == []
    assert [free_port(port) for port in tutorial.ports] == tutorial.ports
    changed = subprocess.run(
        ["git", "status", "--porcelain"], cwd=tutorial.checkout, capture_output=True, text=True, check=True
    )
    assert changed.stdout.split() == ["??", "tutorial/"]
