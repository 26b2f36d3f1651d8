"""A value in a worklog is not made again, and a killed process loses no value that it has put."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from traitwatch_builder.storage.worklog import SavedValues, Worklog, fingerprint, model_fingerprint


def test_the_next_process_finds_every_value(tmp_path: Path) -> None:
    with Worklog(tmp_path / "a.jsonl") as log:
        log.put("one", {"score": None})
        log.put("two", "ü\n")
        assert log.get("three") is None
    with Worklog(tmp_path / "a.jsonl") as log:
        assert log.get("one") == {"score": None}
        assert log.get("two") == "ü\n"
        assert len(log) == 2


def test_a_line_that_an_interruption_cut_off_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Worklog(path) as log:
        log.put("one", 1)
    for torn in ('{"key": "two", "va', '{"key": "two", "value": 2}', '{"key": "two"}\n'):
        whole = path.read_bytes()
        path.write_bytes(whole + torn.encode())
        with Worklog(path) as log:
            assert log.get("two") in (None, 2)
            log.put("three", 3)
        with Worklog(path) as log:
            assert (log.get("one"), log.get("three")) == (1, 3)
        path.write_bytes(whole)


def test_a_kill_right_after_put_loses_nothing(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom traitwatch_builder.storage.worklog import Worklog\n"
        "log = Worklog(Path(sys.argv[1]))\nlog.put('one', 'x' * 100000)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", script, tmp_path / "a.jsonl"], check=False, env=dict(os.environ))
    assert ended.returncode == -signal.SIGKILL
    with Worklog(tmp_path / "a.jsonl") as log:
        assert log.get("one") == "x" * 100000


def test_a_log_that_another_process_writes_can_be_read_and_is_left_alone(tmp_path: Path) -> None:
    with Worklog(tmp_path / "a.jsonl") as log:
        log.put("one", 1)
        with (tmp_path / "a.jsonl").open("ab") as file:
            file.write(b'{"key": "half')
        values = SavedValues(tmp_path / "a.jsonl")
        assert (values.get("one"), len(values)) == (1, 1)
        assert (tmp_path / "a.jsonl").read_bytes().endswith(b"half")
    assert SavedValues(tmp_path / "none.jsonl").get("one") is None
    assert not (tmp_path / "none.jsonl").exists()


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
