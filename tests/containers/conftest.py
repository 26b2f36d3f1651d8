"""The fixtures of all modules: the CPU image, which is built once."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.container import missing_programs
from tests.containers.image import Builder, Image
from tests.containers.outside import debian_mirror, of_this_machine


@pytest.fixture(scope="session")
def cpu_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The target `cpu`. The fixture runs every instruction, which takes some minutes on two cores."""
    if os.geteuid() != 0:
        pytest.fail("chroot and mounts take root; run these tests as root (in a machine that may be thrown away).")
    if missing := missing_programs():
        pytest.fail(f"{', '.join(missing)} not found; `make programs` installs them.")
    directory = tmp_path_factory.mktemp("image")
    # pytest shows this in the output of a failed test, and with `-s`.
    builder = Builder(
        directory, of_this_machine(directory), debian_mirror(), lambda line: sys.stderr.write(f"{line}\n")
    )
    yield builder.build("cpu")
    # The trees have gigabytes. pytest would keep them for three runs.
    shutil.rmtree(directory)


@pytest.fixture
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for a container's volumes and its log."""
    return tmp_path_factory.mktemp("container")
