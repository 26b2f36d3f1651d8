"""The common parts of all tests: a tiny model, the shared servers, and the second run of some failed tests."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.paths import ROOT
from tests.support.shared_servers import NAMES, SharedServers
from tests.support.tiny_model import save_tiny_model

# Every run has the same examples. An example has no time limit, since machines are noisy.
settings.register_profile("traitwatch", deadline=None, derandomize=True)
settings.load_profile("traitwatch")

# The folders whose tests run other programs, and the marker of each. The modules mark the tests that run an engine.
MARKERS = {"e2e": "browser", "ops": "prometheus"}
# A failed test with one of these markers runs once more. A unit test does not.
RUN_TWICE = ("engine", "browser", "prometheus")


def pytest_configure() -> None:
    """Let Ctrl-C reach the tests' processes, even if a shell runs pytest in the background and ignores Ctrl-C."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folder. Tests with an engine, a browser or Prometheus run once more after a failure."""
    for item in items:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        if folder in MARKERS:
            item.add_marker(MARKERS[folder])
        if any(item.get_closest_marker(name) for name in RUN_TWICE):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the tests that needed the second run, with the reason of the first failure."""
    again = terminalreporter.getreports("rerun")
    if again:
        terminalreporter.section("needed a second run")
        for report in again:
            terminalreporter.line(f"{report.nodeid} ({report.when}): {_reason(report)}")


def _reason(report: pytest.TestReport) -> str:
    """Return the first line of an error."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longreprtext).strip().splitlines()[0]


@pytest.fixture(scope="session")
def shared_servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServers]:
    """The shared servers that the collected tests use."""
    used = _used_fixtures(request.session)
    servers = SharedServers([name for name in NAMES if name in used], tmp_path_factory.mktemp("shared-servers"))
    yield servers
    servers.close()


@pytest.fixture(scope="session", autouse=True)
def early_start(request: pytest.FixtureRequest) -> None:
    """Start the shared servers before the first test, so that the unit tests run meanwhile."""
    if "shared_servers" in _used_fixtures(request.session):
        request.getfixturevalue("shared_servers")


def _used_fixtures(session: pytest.Session) -> set[str]:
    return {name for item in session.items for name in getattr(item, "fixturenames", ())}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny random model with a chat template."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny-llama")
