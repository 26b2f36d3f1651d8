"""Runs an image without an engine, like `docker run --read-only --tmpfs /tmp --shm-size 1g --cap-drop ALL`."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.containers.image import Image
from tests.containers.sandbox import Bind, Sandbox, first_process


@dataclass(frozen=True)
class Container:
    """A container that was started.

    Attributes:
        image: the image of the container.
        sandbox: the sandbox of the container.
        process: the process outside of the container. Its exit status is that of process 1 inside.
        log: the file with the output.
    """

    image: Image
    sandbox: Sandbox
    process: subprocess.Popen[bytes]
    log: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, like `docker exec`."""
        return self.sandbox.enter(self.process, command)

    def wait_until_healthy(self, check: Sequence[str], timeout: float) -> None:
        """Run the health check until it succeeds.

        Raises:
            AssertionError: the container ended, or was not healthy in time. The message has the end of the log.
        """
        deadline = time.monotonic() + timeout
        while self.process.poll() is None and time.monotonic() < deadline:
            if self.run(*check).returncode == 0:
                return
            time.sleep(1)
        raise AssertionError(f"exit status {self.process.poll()}:\n{self.log.read_text(errors='replace')[-4000:]}")

    def stop(self, timeout: float) -> int:
        """Send the image's stop signal to process 1, like `docker stop`, and return the exit status."""
        os.kill(first_process(self.process), signal.Signals[self.image.stop_signal])
        return self.process.wait(timeout)


@contextmanager
def container(image: Image, directory: Path, command: Sequence[str] = ()) -> Iterator[Container]:
    """Run an image while the context lasts.

    Args:
        image: the image to run.
        directory: the directory for its volumes and its log.
        command: replaces the image's own command.
    """
    log = directory / "log"
    with ExitStack() as stack:
        sandbox = read_only(image, directory)
        output = stack.enter_context(log.open("wb"))
        process = sandbox.start([*image.entrypoint, *(command or image.command)], output, stack)
        yield Container(image, sandbox, process, log)


def read_only(image: Image, directory: Path) -> Sandbox:
    """Return a sandbox for an image, in which its files are read-only and its volumes lie below `directory`."""
    binds = []
    for number, volume in enumerate(image.volumes):
        place = directory / f"volume-{number}"
        if not place.exists():
            # A new volume starts with the image's files at that place, and with the owner of these files.
            copy = ["cp", "--archive", str(image.root / volume.lstrip("/")), str(place)]
            subprocess.run(copy, check=True)
        binds.append(Bind(place, volume, writable=True))
    return Sandbox(image.root, image.env, image.directory, image.user, binds, read_only=True, network=False)


def missing_programs() -> list[str]:
    """Return those programs that are needed to build and to run an image, and are missing."""
    return [name for name in ("debootstrap", "unshare", "nsenter", "ip") if shutil.which(name) is None]
