"""The common parts of all tests: a tiny model, the work of two processes, and the second run of some failed tests."""

import signal
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support.paths import ROOT
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


class Lanes(LoadScopeScheduling):
    """Splits the tests of a run in two processes (`-n 2`): each process takes a module, or all of `tests/integration`.

    The modules of `tests/integration` share servers. Some read the metrics of a server before and after a request.
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.split("::", 1)[0]
        return "tests/integration" if module.startswith("tests/integration/") else module


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Split the tests by `Lanes`. The largest share starts first."""
    return Lanes(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the tests that needed the second run, with the reason of the first failure."""
    again = terminalreporter.getreports("rerun")
    if again:
        terminalreporter.section("needed a second run")
        for report in again:
            terminalreporter.line(f"{report.nodeid} ({report.when}): {_reason(report)}")


def _reason(report: pytest.TestReport) -> str:
    """Return the first line of an error's message. Where the report has only a traceback, return its last line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        return str(crash.message).strip().splitlines()[0]
    return report.longreprtext.strip().splitlines()[-1]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny random model with a chat template."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny-llama")
