"""A vector that comes while the engine sleeps is in the model when it has woken, through vLLM's own waking.

vLLM's worker for CPUs ignores sleep. The tests run the waking of vLLM's worker for GPUs, with the memory of this
machine: what frees and maps the memory of a device is left out.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from vllm.v1.worker import gpu_worker

from traitwatch.vllm_private.layers import StateModule
from traitwatch.vllm_private.worker import StateWorker
from traitwatch_server.worker.tap import Tap
from traitwatch_server.worker.worker import TraitWorker

HIDDEN = 4


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Any:
    platform_worker = StateWorker.__mro__[1]
    monkeypatch.setattr(platform_worker, "sleep", lambda self, level: None)
    monkeypatch.setattr(platform_worker, "wake_up", gpu_worker.Worker.wake_up)
    worker: Any = TraitWorker.__new__(TraitWorker)
    layer = nn.Linear(HIDDEN, HIDDEN)
    model = nn.Sequential(layer)
    worker.model_runner = SimpleNamespace(model=model, get_model=lambda: model)
    worker.vllm_config = SimpleNamespace(model_config=SimpleNamespace(enable_nccl_comm_suspend=False))
    worker._sleep_mode_backend = SimpleNamespace(resume=lambda tags: None)
    worker._sleep_saved_parameters = worker._sleep_saved_draft_buffers = {}
    worker._sleep_saved_buffers = {}
    worker._sender = None
    device = torch.device("cpu")
    worker._tap = Tap({1: StateModule(layer, False)}, hidden_size=HIDDEN, max_tokens=2, columns=3, device=device)
    return worker


def load(worker: Any, column: int, value: float) -> None:
    worker.traitwatch_load(1, column, np.full(HIDDEN, value, dtype=np.float32).tobytes(), 1)


def fall_asleep(worker: Any, level: int) -> None:
    """Do what vLLM's worker does: save all buffers before a deep sleep. Then the memory is lost."""
    model = worker.model_runner.model
    if level == 2:
        worker._sleep_saved_buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    worker.sleep(level)
    if level == 2:
        for buffer in model.buffers():
            buffer.fill_(torch.nan)


def vectors(worker: Any) -> list[float]:
    values: list[float] = worker.model_runner.model[0].traitwatch_vectors[0].tolist()
    return values


@pytest.mark.parametrize("tags", [(None,), (["kv_cache"], ["weights"]), (["weights"], ["kv_cache"])])
@pytest.mark.parametrize("level", [1, 2])
def test_vectors_of_before_and_of_during_the_sleep_are_there_after_it(worker: Any, level: int, tags: Any) -> None:
    load(worker, 0, 1.0)
    load(worker, 2, 3.0)
    fall_asleep(worker, level)
    load(worker, 1, 2.0)
    load(worker, 2, 4.0)
    for part in tags:
        worker.wake_up(part)
    assert vectors(worker) == [1.0, 2.0, 4.0]
    load(worker, 0, 5.0)
    assert vectors(worker) == [5.0, 2.0, 4.0]


def test_the_memory_of_a_sleeping_engine_is_not_touched(worker: Any) -> None:
    fall_asleep(worker, 2)
    worker.wake_up(["kv_cache"])
    load(worker, 1, 2.0)
    assert all(np.isnan(vectors(worker)))
