"""A value in a worklog is not made again, and a killed process loses no value that it has put."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.full_disk import largest_file
from traitwatch.errors import ArtifactError
from traitwatch_builder.answering.source import Answer
from traitwatch_builder.storage.worklog import SavedValues, Worklog, fingerprint, model_fingerprint


def test_the_next_process_finds_every_value(tmp_path: Path) -> None:
    with Worklog(tmp_path / "a.jsonl") as log:
        log.put("one", {"score": None})
        log.put("two", "ü\n")
        assert log.get("three", str) is None
    with Worklog(tmp_path / "a.jsonl") as log:
        assert log.get("one", dict) == {"score": None}
        assert log.get("two", str) == "ü\n"
        assert len(log) == 2


def test_a_line_that_an_interruption_cut_off_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Worklog(path) as log:
        log.put("one", 1)
    for torn in ('{"key": "two", "va', '{"key": "two", "value": 2}', '{"key": "two"}\n'):
        whole = path.read_bytes()
        path.write_bytes(whole + torn.encode())
        with Worklog(path) as log:
            assert log.get("two", int) in (None, 2)
            log.put("three", 3)
        with Worklog(path) as log:
            assert (log.get("one", int), log.get("three", int)) == (1, 3)
        path.write_bytes(whole)


def test_a_kill_right_after_put_loses_nothing(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom traitwatch_builder.storage.worklog import Worklog\n"
        "log = Worklog(Path(sys.argv[1]))\nlog.put('one', 'x' * 100000)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", script, tmp_path / "a.jsonl"], check=False, env=dict(os.environ))
    assert ended.returncode == -signal.SIGKILL
    with Worklog(tmp_path / "a.jsonl") as log:
        assert log.get("one", str) == "x" * 100000


def test_a_log_that_another_process_writes_can_be_read_and_is_left_alone(tmp_path: Path) -> None:
    with Worklog(tmp_path / "a.jsonl") as log:
        log.put("one", 1)
        with (tmp_path / "a.jsonl").open("ab") as file:
            file.write(b'{"key": "half')
        values = SavedValues(tmp_path / "a.jsonl")
        assert (values.get("one", int), len(values)) == (1, 1)
        assert (tmp_path / "a.jsonl").read_bytes().endswith(b"half")
    assert SavedValues(tmp_path / "none.jsonl").get("one", int) is None
    assert not (tmp_path / "none.jsonl").exists()


@pytest.mark.parametrize("damage", [b"\xff" * 9, b"[]", b'{"key": ["two"], "value": 2}', b"[" * 100_000])
def test_a_damaged_line_loses_its_own_value_and_no_other(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Worklog(path) as log:
        for number, key in enumerate(("one", "two", "three")):
            log.put(key, number)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + damage + b"\n" + lines[2])
    for _ in range(2):
        with Worklog(path) as log:
            assert [log.get(key, int) for key in ("one", "two", "three")] == [0, None, 2]
    with Worklog(path) as log:
        log.put("two", 1)
    assert SavedValues(path).get("two", int) == 1


def test_a_value_of_another_kind_counts_as_missing(tmp_path: Path) -> None:
    with Worklog(tmp_path / "a.jsonl") as log:
        for key, value in {"whole": {"text": "so", "finished": True}, "part": {"text": "so"}, "odd": [1]}.items():
            log.put(key, value)
        assert log.get("whole", Answer) == Answer("so", finished=True)
        assert log.get("part", Answer) is None
        assert log.get("odd", Answer) is None


def test_a_worklog_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(ArtifactError, match=r"a\.jsonl cannot be written: Is a directory"):
        Worklog(tmp_path / "a.jsonl")


def test_a_full_disk_ends_the_work_with_a_sentence(tmp_path: Path) -> None:
    with Worklog(tmp_path / "a.jsonl") as log:
        log.put("one", 1)
        with largest_file(4096), pytest.raises(ArtifactError, match=r"a\.jsonl cannot be written: File too large"):
            log.put("two", "x" * 10_000)
    with Worklog(tmp_path / "a.jsonl") as log:
        assert (log.get("one", int), log.get("two", str)) == (1, None)


def test_a_fingerprint_depends_on_the_data_and_not_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_models_differ_by_the_content_of_their_files(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"a" * 3_000_000)
    before = model_fingerprint(tmp_path)
    os.utime(weights, (1, 1))
    assert model_fingerprint(tmp_path) == before, "the time of a file does not count"
    weights.write_bytes(b"a" * 2_999_999 + b"b")
    retrained = model_fingerprint(tmp_path)
    assert retrained != before, "retrained weights have the same size"
    for name in ("README.md", "paternalism.json", "paternalism_pos.csv", "paternalism_response_avg_diff.pt"):
        (tmp_path / name).write_text("beside it")
    assert model_fingerprint(tmp_path) == retrained, "other files in the directory are no part of the model"
    (tmp_path / "config.json").write_text("{}")
    assert model_fingerprint(tmp_path) != retrained
    assert model_fingerprint("meta-llama/Llama-3.1-8B-Instruct") == {"name": "meta-llama/Llama-3.1-8B-Instruct"}
