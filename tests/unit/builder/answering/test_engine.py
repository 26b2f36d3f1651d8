"""On a CPU, the builder's own engine runs in this process; other engines stay in processes of their own."""

import os
from pathlib import Path
from typing import Any

import pytest
from vllm.platforms import current_platform

from traitwatch.cpu_engine import MULTIPROCESSING
from traitwatch_builder.answering.engine import Engine
from traitwatch_builder.answering.source import Sampling
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.models.vllm_engine import in_this_process_on_a_cpu


def test_only_the_engine_that_is_made_in_the_block_runs_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MULTIPROCESSING, raising=False)
    with in_this_process_on_a_cpu():
        assert os.environ.get(MULTIPROCESSING) == ("0" if current_platform.is_cpu() else None)
    assert MULTIPROCESSING not in os.environ


def test_an_engine_that_does_not_start_leaves_nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MULTIPROCESSING, raising=False)
    block = in_this_process_on_a_cpu()
    with pytest.raises(RuntimeError, match="no model"), block:
        raise RuntimeError("no model")
    assert MULTIPROCESSING not in os.environ


def test_several_workers_have_processes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MULTIPROCESSING, raising=False)
    with in_this_process_on_a_cpu(workers=2):
        assert MULTIPROCESSING not in os.environ


def test_an_engine_spreads_over_gpus_and_the_error_of_its_start_names_an_alternative(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(**options: Any) -> None:
        spread = options["tensor_parallel_size"], options["pipeline_parallel_size"]
        raise ValueError(f"no room for {options['model']} on {spread}.")

    monkeypatch.setattr("vllm.LLM", start)
    sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=10, seed=0)
    with pytest.raises(PipelineError, match=r"no room for large on \(2, 3\)\. .* --endpoint"):
        Engine(Path("large"), sampling, 100, tensor_parallel_size=2, pipeline_parallel_size=3)


def test_a_setting_of_the_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MULTIPROCESSING, "1")
    with in_this_process_on_a_cpu():
        assert os.environ[MULTIPROCESSING] == "1"
    assert os.environ[MULTIPROCESSING] == "1"
