"""What Prometheus is told is what the responses say, from one API process; the matrix has two."""

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
