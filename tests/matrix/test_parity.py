"""vLLM reports the projections of transformers for the compiled embedded model in its usual precision.

The worker has a process of its own, vLLM's default on a CPU. Other servers of the tests have one process for both.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.parity import check_parity
from tests.support.reference import SERVED_PRECISION, Reference
from tests.support.serving import Server, serving, traitwatch
from tests.support.shared_servers import EMBEDDED_LAYER_OPTIONS, embedded_directions, save_embedded_probes
from traitwatch.cpu_engine import MULTIPROCESSING
from traitwatch.precision import default_vllm_dtype
from traitwatch_builder.models.embedded import embedded_model

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def embedded_probes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_embedded_probes(tmp_path_factory.mktemp("compiled") / "probes")


@pytest.fixture(scope="module")
def compiled(embedded_probes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    command = traitwatch("serve", embedded_model(), "--traits", embedded_probes, *EMBEDDED_LAYER_OPTIONS)
    command += ["--dtype", default_vllm_dtype()]
    with serving(
        ["env", f"{MULTIPROCESSING}=1", *command], tmp_path_factory.mktemp("compiled") / "server.log"
    ) as server:
        yield server


def test_projections_are_those_of_transformers(compiled: Server, embedded_probes: Path) -> None:
    model = embedded_model()
    in_float32, in_served_precision = Reference(model), Reference(model, getattr(torch, SERVED_PRECISION))
    check_parity(compiled, in_float32, in_served_precision, embedded_directions(embedded_probes))
