"""A server shows nothing of an earlier server, even where the directory of their metrics outlives both.

The metrics are real files of prometheus_client, written by real processes that end as a killed server ends.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from traitwatch_server.errors import ConfigError
from traitwatch_server.launch.multiprocess_metrics import forget_ended_processes

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
# A server that scores `tokens` tokens for a trait, and serves until its input ends. `taken` gives it the files of
# another process, as if the system had given it the same id.
_SERVER = """
import os, sys
from pathlib import Path
from traitwatch_server.launch.multiprocess_metrics import forget_ended_processes
tokens, trait, taken = sys.argv[1:]
directory = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
if taken:
    for file in directory.glob(f"*_{taken}.db"):
        file.rename(file.with_name(file.name.replace(f"_{taken}.db", f"_{os.getpid()}.db")))
forget_ended_processes()
from prometheus_client import CollectorRegistry
from tests.support.traits import served_trait
from traitwatch_server.metrics import Metrics
metrics = Metrics(CollectorRegistry())
metrics.show([served_trait(trait)])
metrics.tokens_scored["0"].inc(int(tokens))
print("up", flush=True)
sys.stdin.read()
"""


@contextmanager
def running(directory: Path, tokens: int, trait: str, taken: str = "") -> Iterator[int]:
    command = [sys.executable, "-c", _SERVER, str(tokens), trait, taken]
    environment = {**os.environ, VARIABLE: str(directory)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "up\n"
        try:
            yield server.pid
        finally:
            server.send_signal(signal.SIGKILL)


def shown(directory: Path) -> tuple[float, set[str]]:
    """Return the counted tokens and the loaded traits, as a scraper sees them."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(directory))  # type: ignore[no-untyped-call]
    samples = [sample for family in registry.collect() for sample in family.samples]
    tokens = sum(sample.value for sample in samples if sample.name == "traitwatch_tokens_scored_total")
    return tokens, {s.labels["trait"] for s in samples if s.name == "traitwatch_vector_info" and s.value}


def test_a_restarted_server_shows_only_its_own_counts_and_vectors(tmp_path: Path) -> None:
    with running(tmp_path, 100, "old"):
        assert shown(tmp_path) == (100, {"old"})
    with running(tmp_path, 7, "new"):
        assert shown(tmp_path) == (7, {"new"})


def test_a_server_with_the_id_of_an_earlier_one_does_not_go_on_with_its_counts(tmp_path: Path) -> None:
    """In a container, every server has the same process ids."""
    with running(tmp_path, 100, "old") as pid:
        pass
    with running(tmp_path, 7, "new", taken=str(pid)):
        assert shown(tmp_path) == (7, {"new"})


def test_the_counts_of_a_running_process_stay(tmp_path: Path) -> None:
    with running(tmp_path, 100, "one"), running(tmp_path, 7, "two"):
        assert shown(tmp_path) == (107, {"one", "two"})


def test_a_file_that_is_older_than_the_process_of_its_id_is_of_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path, 100, "old"):
        for file in tmp_path.glob("*.db"):
            os.utime(file, (1_000_000_000, 1_000_000_000))
        monkeypatch.setenv(VARIABLE, str(tmp_path))
        forget_ended_processes()
    assert list(tmp_path.iterdir()) == []


def test_other_files_stay_and_a_missing_directory_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "new" / "metrics"
    monkeypatch.setenv(VARIABLE, str(directory))
    forget_ended_processes()
    assert directory.is_dir()
    for name in ("notes.txt", "counter_worker-a.db"):
        (directory / name).touch()
    forget_ended_processes()
    assert len(list(directory.iterdir())) == 2


def test_a_directory_that_cannot_be_used_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=f"{VARIABLE}=.*file"):
        forget_ended_processes()


def test_without_the_variable_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    forget_ended_processes()
