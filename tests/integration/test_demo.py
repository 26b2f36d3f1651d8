"""A demonstration that is ended while its server starts ends with a failure, and leaves no process."""

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support.waiting import until

TRAITWATCH = [sys.executable, "-P", "-m", "traitwatch"]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_demonstration_that_ends_during_the_start_fails_and_leaves_no_process(
    model: Path, end: signal.Signals
) -> None:
    with subprocess.Popen([*TRAITWATCH, "demo", "--once"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as demo:
        children: list[psutil.Process] = []

        def serving() -> bool:
            children[:] = psutil.Process(demo.pid).children(recursive=True)
            # A child that has ended just now has no command line.
            with suppress(psutil.Error):
                return any("serve" in child.cmdline() for child in children)
            return False

        until(serving)
        demo.send_signal(end)
        assert demo.stdout is not None
        assert demo.stdout.read() == b"\nStopped.\n"
        assert demo.wait(60) == 1
    assert not [child for child in children if child.is_running()]
