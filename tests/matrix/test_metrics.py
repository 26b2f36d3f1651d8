"""Prometheus gets the same numbers as the responses, from two API processes."""

from collections.abc import Iterator

import pytest

from tests.support.metrics import MetricsChecks, Run, run_traffic
from tests.support.serving import WITH_ADMIN_KEY, serving, traitwatch
from tests.support.shared_servers import LOW_THRESHOLD, SHIPPED_VECTORS
from traitwatch_builder.models.embedded import embedded_model

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    directory = tmp_path_factory.mktemp("metrics")
    spike_log = directory / "spikes.jsonl"
    command = traitwatch("serve", embedded_model(), "--traits", SHIPPED_VECTORS, *LOW_THRESHOLD, "--enforce-eager")
    command += ["--traits-events", str(spike_log), "--traits-events-text", "--api-server-count", "2"]
    with serving([*WITH_ADMIN_KEY, *command], directory / "server.log") as server:
        yield run_traffic(server, 2, spike_log)


class TestTwoProcesses(MetricsChecks):
    pass
