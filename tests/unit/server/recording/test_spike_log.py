"""Every spike is a JSON line in a private file that several processes write and rotate. Nobody waits for the disk."""

import json
import logging
import math
import multiprocessing
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from tests.support.responses import SPIKE, decode, response, trait
from tests.support.waiting import until
from traitwatch.spikes import Spike
from traitwatch_server.errors import ConfigError
from traitwatch_server.recording.spike_log import SpikeLog, checked_file

TIMEOUT = 60.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def dropped() -> list[int]:
    return []


@pytest.fixture
def open_log(path: Path, dropped: list[int]) -> Iterator[Callable[..., SpikeLog]]:
    logs: list[SpikeLog] = []

    def make(target: str = str(path), **options: Any) -> SpikeLog:
        logs.append(SpikeLog(target, **{"max_bytes": 0, "keep": 5, "dropped": dropped.append, **options}))
        return logs[-1]

    yield make
    for log in logs:
        log.close()


def lines_of(*paths: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_spike_is_a_line_without_any_text(open_log: Callable[..., SpikeLog], path: Path) -> None:
    log = open_log()
    before = datetime.now(UTC)
    log.record(response())
    log.close()
    (line,) = lines_of(path)
    written = line.pop("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", written)
    assert abs((datetime.fromisoformat(written) - before).total_seconds()) < TIMEOUT
    assert list(line.items()) == [
        ("event", "spike"),
        ("request_id", "chatcmpl-1"),
        ("call_id", "0123456789abcdef"),
        ("choice", 1),
        ("model", "tiny"),
        ("engine", "0"),
        ("trait", "trait-0"),
        ("layer", 2),
        ("start", 1),
        ("end", 4),
        ("peak_z", 5.9124),
        ("mean_z", 1.2346),
        ("threshold", 3.5),
        ("tokens", 6),
    ]


def test_each_spike_of_each_trait_has_a_line(open_log: Callable[..., SpikeLog], path: Path) -> None:
    log = open_log()
    log.record(response("a", spikes=[(), ()], mean_z=[0, 0]))
    log.record(response("b", spikes=[(), (SPIKE, Spike(4, 6, 9.0))], mean_z=[0, 1]))
    log.close()
    assert [(line["request_id"], line["trait"], line["start"]) for line in lines_of(path)] == [
        ("b", "trait-1", 1),
        ("b", "trait-1", 4),
    ]


def test_unknown_fields_are_null(open_log: Callable[..., SpikeLog], path: Path) -> None:
    log = open_log()
    log.record(response(mean_z=[math.nan], traits=[trait(threshold=None)]))
    log.close()
    (line,) = lines_of(path)
    assert line["mean_z"] is None
    assert log.recent()[0]["mean_z"] is None
    assert line["threshold"] is None


def test_texts_are_logged_on_request(open_log: Callable[..., SpikeLog], path: Path) -> None:
    log = open_log(decode=decode)
    log.record(response())
    log.close()
    (line,) = lines_of(path)
    assert line["prompt"] == "five four"
    assert line["text"] == "zero one two three four five"
    assert line["spike_text"] == "one two three"


def test_a_text_of_any_script_stays_one_line(open_log: Callable[..., SpikeLog], path: Path) -> None:
    log = open_log(decode=lambda ids: "a\nb\u2028c\u0085中文🙂\ufffd\x00")
    log.record(response())
    log.close()
    (line,) = path.read_bytes().rstrip(b"\n").split(b"\n")
    assert json.loads(line)["text"] == "a\nb\u2028c\u0085中文🙂\ufffd\x00"
    assert "中文".encode() in line


def test_a_spike_whose_text_cannot_be_decoded_is_logged_without(
    open_log: Callable[..., SpikeLog], path: Path, dropped: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(ids: Sequence[int]) -> str:
        raise IndexError("no such token")

    log = open_log(decode=broken)
    for _ in range(20):
        log.record(response())
    log.close()
    assert len(lines_of(path)) == 20
    assert "text" not in lines_of(path)[0]
    assert not dropped
    assert len(caplog.records) == 1


def test_files_are_private(open_log: Callable[..., SpikeLog], path: Path) -> None:
    path.touch(mode=0o644)
    log = open_log(max_bytes=1000, keep=3)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for _ in range(20):
        log.record(response())
    log.close()
    files = [file for file in path.parent.iterdir() if file.is_file()]
    assert len(files) == 5, "there must be the log, three rotated files and the lock"
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_only_the_latest_rotated_files_stay(open_log: Callable[..., SpikeLog], path: Path) -> None:
    log = open_log(max_bytes=1000, keep=2)
    for i in range(50):
        log.record(response(str(i)))
    log.close()
    assert sorted(file.name for file in path.parent.glob("events.jsonl*")) == [
        "events.jsonl",
        "events.jsonl.1",
        "events.jsonl.2",
    ]
    lines = lines_of(path.with_suffix(".jsonl.2"), path.with_suffix(".jsonl.1"), path)
    assert [int(line["request_id"]) for line in lines] == list(range(50 - len(lines), 50))
    assert path.with_suffix(".jsonl.1").stat().st_size < 1500


def test_a_log_goes_on_where_it_stopped(open_log: Callable[..., SpikeLog], path: Path) -> None:
    for i in range(2):
        log = open_log()
        log.record(response(str(i)))
        log.close()
    assert [line["request_id"] for line in lines_of(path)] == ["0", "1"]


def write_many(path: Path, process: int, count: int, start: Barrier, results: Any) -> None:
    """Log `count` spikes as fast as the log takes them."""
    dropped: list[int] = []
    log = SpikeLog(str(path), max_bytes=20_000, keep=1000, dropped=dropped.append, decode=decode)
    for i in range(count):
        if i % 100 == 0:
            start.wait(TIMEOUT)
        log.record(response(f"{process}-{i}"))
        if i % 100 == 99:
            until(lambda i=i: log.recent(1)[:1] != [] and log.recent(1)[0]["request_id"] == f"{process}-{i}")
    log.close()
    results.put(sum(dropped))


def test_two_processes_rotate_one_file_and_no_line_is_lost_or_torn(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, results, count = context.Barrier(2), context.Queue(), 1500
    processes = [context.Process(target=write_many, args=(path, i, count, start, results)) for i in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert [results.get(timeout=TIMEOUT) for _ in processes] == [0, 0]
    files = list(path.parent.glob("events.jsonl*"))
    assert len(files) > 20
    lines = lines_of(*files)
    assert sorted(line["request_id"] for line in lines) == sorted(f"{p}-{i}" for p in range(2) for i in range(count))
    shared = [file for file in files if {line["request_id"][0] for line in lines_of(file)} == {"0", "1"}]
    assert len(shared) > 5, "the two processes did not write at the same time"


def run_python(code: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, **options)


def test_a_dash_is_stdout() -> None:
    code = """
from traitwatch_server.recording.spike_log import SpikeLog
from tests.support.responses import response
log = SpikeLog("-", max_bytes=1, keep=1, dropped=print)
for i in range(3):
    log.record(response(str(i)))
log.close()
"""
    out, _ = run_python(code).communicate(timeout=TIMEOUT)
    assert [json.loads(line)["request_id"] for line in out.splitlines()] == ["0", "1", "2"]


def test_waiting_spikes_are_written_when_the_process_ends(path: Path) -> None:
    code = f"""
import traitwatch_server.recording.background
from traitwatch_server.recording.spike_log import SpikeLog
from tests.support.responses import response
traitwatch_server.recording.background._CLOSE_TIMEOUT = 60
log = SpikeLog({str(path)!r}, max_bytes=0, keep=1, dropped=print)
for i in range(500):
    log.record(response(str(i)))
"""
    run_python(code).communicate(timeout=TIMEOUT)
    assert [line["request_id"] for line in lines_of(path)] == [str(i) for i in range(500)]


def test_a_disk_that_stands_still_delays_nobody_and_dropped_spikes_are_counted() -> None:
    code = """
import sys, time
from traitwatch_server.recording.spike_log import SpikeLog
from tests.support.responses import response
dropped = []
log = SpikeLog("-", max_bytes=1, keep=1, dropped=dropped.append)
one = response()
start = time.perf_counter()
for i in range(20_000):
    log.record(one)
sys.stderr.write(f"{time.perf_counter() - start} {sum(dropped)}\\n")
sys.stderr.flush()
sys.stdin.read()
log.close()
"""
    # Nobody reads the pipe, so the log's thread stands still in its first writes.
    process = run_python(code, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    watchdog = Timer(TIMEOUT, process.kill)
    watchdog.start()
    line = process.stderr.readline()
    out, errors = process.communicate()
    watchdog.cancel()
    seconds, lost = line.split()
    assert not errors
    written = [json.loads(line) for line in out.splitlines()]
    assert int(lost) > 1000
    assert len(written) + int(lost) == 20_000
    assert float(seconds) < TIMEOUT / 2, "the caller waited for a write"


def test_a_full_disk_is_counted_and_reported_once_and_leaves_no_half_line(path: Path) -> None:
    code = f"""
import resource, time
from traitwatch_server.recording.spike_log import SpikeLog
from tests.support.responses import response
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
dropped = []
log = SpikeLog({str(path)!r}, max_bytes=0, keep=1, dropped=dropped.append)
for i in range(100):
    log.record(response(str(i)))
while open({str(path)!r}).read().count("}}\\n") + sum(dropped) < 100:
    time.sleep(0.01)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
log.record(response("after"))
log.close()
print(sum(dropped))
"""
    process = run_python(code, stderr=subprocess.PIPE)
    out, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    ids = [line["request_id"] for line in lines_of(path)]
    assert ids == [*map(str, range(len(ids) - 1)), "after"]
    assert 2 < len(ids) < 20
    assert int(out) == 101 - len(ids)
    assert errors.count("Traceback") == 1
    assert "spike event log" in errors


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("missing/events.jsonl", "must be a directory"),
        ("", "not a regular file"),
        ("/dev/null", "not a regular file|must be a directory"),
        ("/proc/events.jsonl", "cannot be written|must be a directory"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_at_once(
    open_log: Callable[..., SpikeLog], tmp_path: Path, target: str, message: str
) -> None:
    mode = Path("/dev/null").stat().st_mode
    with pytest.raises(ConfigError, match=message):
        checked_file(str(tmp_path / target))
    with pytest.raises(ConfigError, match=message) as refusal:
        open_log(str(tmp_path / target))
    assert str(tmp_path / target) in str(refusal.value)
    assert Path("/dev/null").stat().st_mode == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_directory_of_someone_else_is_refused() -> None:
    code = """
import os, sys
from traitwatch_server.recording.spike_log import SpikeLog
from traitwatch_server.errors import ConfigError
os.setgid(65534)
os.setuid(65534)
try:
    SpikeLog(sys.argv[1], max_bytes=0, keep=1, dropped=print)
except ConfigError as error:
    print(error)
"""
    process = subprocess.run(
        [sys.executable, "-c", code, "/etc/traitwatch-events.jsonl"], capture_output=True, text=True, timeout=TIMEOUT
    )
    assert "/etc must be a directory in which this user may make files" in process.stdout, process.stderr


def test_a_link_is_followed_so_that_the_file_itself_is_rotated(
    open_log: Callable[..., SpikeLog], path: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    log = open_log(str(link), max_bytes=1000, keep=3)
    for _ in range(10):
        log.record(response())
    log.close()
    assert link.is_symlink()
    assert path.with_suffix(".jsonl.1").exists()


def test_the_latest_events_are_remembered(open_log: Callable[..., SpikeLog], path: Path) -> None:
    log = open_log()
    assert log.recent() == []
    for i in range(250):
        log.record(response(str(i)))
    log.close()
    assert log.recent(1000) == log.recent() == lines_of(path)[:49:-1]
    assert [event["request_id"] for event in log.recent(2)] == ["249", "248"]


def test_nothing_is_taken_after_the_end(
    open_log: Callable[..., SpikeLog], path: Path, dropped: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    log = open_log()
    log.close()
    with caplog.at_level(logging.DEBUG):
        log.record(response())
        log.close()
    assert path.read_text() == ""
    assert dropped == [1]
    assert not caplog.records
