"""An engine of ours runs in this process on a CPU, and no other engine is made to."""

import os

import pytest
from vllm.platforms import current_platform

from builder.engine import in_this_process_on_a_cpu

VARIABLE = "VLLM_ENABLE_V1_MULTIPROCESSING"


def test_only_the_engine_that_is_made_in_the_block_runs_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with in_this_process_on_a_cpu():
        assert os.environ.get(VARIABLE) == ("0" if current_platform.is_cpu() else None)
    assert VARIABLE not in os.environ


def test_an_engine_that_does_not_start_leaves_nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    block = in_this_process_on_a_cpu()
    with pytest.raises(RuntimeError, match="no model"), block:
        raise RuntimeError("no model")
    assert VARIABLE not in os.environ


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    with in_this_process_on_a_cpu():
        assert os.environ[VARIABLE] == "1"
    assert os.environ[VARIABLE] == "1"
