"""A failure of ours in a pass costs the pass's scores: the engine goes on, and every failure is counted."""

from types import SimpleNamespace
from typing import Any

import pytest

from traitwatch.failures import FailureLog
from traitwatch.vllm_private.worker import StateWorker
from traitwatch_server.worker import worker as module
from traitwatch_server.worker.worker import TraitWorker


class CountingSender:
    def __init__(self) -> None:
        self.failed: list[str] = []

    def count_failed_pass(self, api_process: str) -> None:
        self.failed.append(api_process)

    def set_weights(self, fingerprint: int) -> None:
        raise RuntimeError("the device is gone")


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(StateWorker.__mro__[1], "execute_model", lambda self, output: "sampled")
    worker: Any = TraitWorker.__new__(TraitWorker)
    worker._sender = CountingSender()
    worker._api_processes = {"one": None, "two": None}
    worker._requests = {}
    worker._new_weights = False
    worker._failures = FailureLog(module.logger, "It failed.")
    return worker


def test_every_failed_pass_is_counted_once_and_the_engine_gets_its_output(
    worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    unreadable = SimpleNamespace(scheduled_new_reqs=[])
    for _ in range(5):
        assert worker.execute_model(unreadable) == "sampled"
    assert worker._sender.failed == ["one"] * 5
    assert len(caplog.records) == 1


def test_weights_that_cannot_be_read_end_nothing(worker: Any) -> None:
    model = SimpleNamespace(named_parameters=lambda: iter(()))
    worker.model_runner = SimpleNamespace(get_model=lambda: model)
    worker.on_new_weights(whole=True)
    assert worker._sender.failed == ["one"]


def test_a_failure_before_any_api_process_has_connected_is_only_logged(
    worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    worker._sender = None
    worker._api_processes = {}
    assert worker.execute_model(SimpleNamespace(scheduled_new_reqs=[])) == "sampled"
    assert len(caplog.records) == 1
