"""The metrics of one API process agree with the responses; the matrix tests two processes."""

import pytest

from tests.support.metrics import MetricsChecks, Run, run_traffic
from tests.support.serving import Server
from tests.support.shared_servers import SharedServers

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def run(embedded: Server, shared_servers: SharedServers) -> Run:
    return run_traffic(embedded, 1, shared_servers.spike_log)


class TestOneProcess(MetricsChecks):
    pass
