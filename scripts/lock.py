"""Writes locks/: exact versions and hashes of the packages in the container images, one file for each image.

uv resolves for the Python and the platform of an image, not for this machine. A locked version stays unless
pyproject.toml excludes it. `--upgrade` takes the newest versions of all packages. A lock has the hashes of every file
in the index, so it works with every mirror of the index. For the same reason, the lock does not use this machine's
additions to the index (pip's `extra-index-url`). Only the CPU build of torch comes from this machine's folders of
wheels (`find-links`), since PyPI does not have this build.

    .venv/bin/python scripts/lock.py [--upgrade]
"""

import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from setup import OPTIONAL, ROOT, UV, SetupError, install_uv, torch_index_answers, uv

LOCKS = ROOT / "locks"
# Debian 12 and Ubuntu 24.04 have newer C libraries. No locked package needs a newer one than this.
PLATFORM = "x86_64-manylinux_2_28"


def compile_lock(
    name: str, python: str, arguments: Sequence[str | Path], env: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Resolve into locks/NAME.txt. After a failure, the file stays unchanged."""
    options = ["--quiet", "--generate-hashes", "--custom-compile-command", "make lock"]
    options += ["--python-version", python, "--python-platform", PLATFORM]
    return uv("compile", *options, *arguments, "--output-file", LOCKS / f"{name}.txt", env=env)


def lock_all(extra_arguments: Sequence[str]) -> None:
    """Write the locks of both images, and the lock of the tools that build them.

    Raises:
        SetupError: the packages cannot be found.
    """
    env = install_uv()
    env.pop("UV_INDEX", None)
    without_folders = {name: value for name, value in env.items() if name != "UV_FIND_LINKS"}
    cpu: list[str | Path] = ["pyproject.toml", "--extra", "cpu", "--extra", "ui", *extra_arguments]
    # PyPI's builds of these are for CUDA and do not import beside a CPU build of torch. Text needs none of them.
    for package in OPTIONAL:
        cpu += ["--no-emit-package", package]
    result = compile_lock("cpu", "3.11", cpu, env)
    if result.returncode and torch_index_answers(env):
        result = compile_lock("cpu", "3.11", [*cpu, "--torch-backend", "cpu"], env)
    raise_for(result, "cpu")
    gpu = ["pyproject.toml", "--extra", "gpu", "--extra", "ui", *extra_arguments]
    raise_for(compile_lock("gpu", "3.12", gpu, without_folders), "gpu")

    tools = LOCKS / "tools.in"
    builders = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    tools.write_text("\n".join(["# Made by scripts/lock.py: what builds the images.", UV, "pip", *builders]) + "\n")
    raise_for(compile_lock("tools", "3.11", [tools.relative_to(ROOT), *extra_arguments], without_folders), "tools")


def raise_for(result: subprocess.CompletedProcess[str], name: str) -> None:
    """Raise uv's error message after a failure."""
    if result.returncode:
        raise SetupError(f"locks/{name}.txt cannot be made:\n{result.stderr.strip()}")


if __name__ == "__main__":
    try:
        lock_all(sys.argv[1:])
    except SetupError as error:
        sys.exit(f"lock: {error}")
