"""A number has one meaning, end to end: the server reports the projections that transformers computes."""

import psutil
import pytest

from tests.support.parity import check_parity
from tests.support.reference import Reference
from tests.support.serving import Server
from traitwatch.vectors import Float32Array

pytestmark = pytest.mark.engine


def test_the_engines_process_runs_the_worker(embedded: Server) -> None:
    """`cpu_engine.ONE_PROCESS` has its effect in the installed vLLM."""
    titles = [" ".join(process.cmdline()) for process in psutil.Process(embedded.process.pid).children(recursive=True)]
    assert any("VLLM::EngineCore" in title for title in titles)
    assert not any("VLLM::Worker" in title for title in titles)


def test_projections_are_those_of_transformers(
    embedded: Server,
    reference: Reference,
    in_served_precision: Reference,
    directions: dict[str, tuple[int, Float32Array]],
) -> None:
    check_parity(embedded, reference, in_served_precision, directions)
