"""The promises of the Dockerfile that its text shows."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from docker.utils.build import exclude_paths

from tests.containers.dockerfile import Stage, read_stages
from tests.support.paths import ROOT

DOCKERFILE = ROOT / "Dockerfile"
TARGETS = ["cpu", "gpu"]


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    return read_stages(DOCKERFILE)


def values(stage: Stage, name: str) -> list[str]:
    return [instruction.value for instruction in stage.instructions if instruction.name == name]


def locked(name: str, package: str) -> str:
    found = re.search(rf"^{package}==(\S+)", (ROOT / "locks" / f"{name}.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    completed = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_a_user_with_a_fixed_number(stages: dict[str, Stage], target: str) -> None:
    assert values(stages[target], "USER") == ["10001:10001"]
    assert "useradd --uid 10001 " in " ".join(values(stages[f"{target}-base"], "RUN"))


@pytest.mark.parametrize("name", ["ENTRYPOINT", "STOPSIGNAL", "HEALTHCHECK", "VOLUME", "EXPOSE", "WORKDIR"])
def test_both_images_are_run_alike(stages: dict[str, Stage], name: str) -> None:
    assert values(stages["cpu"], name) == values(stages["gpu"], name) != []


@pytest.mark.parametrize("target", TARGETS)
def test_process_1_reaps_children_and_hands_on_signals(stages: dict[str, Stage], target: str) -> None:
    assert json.loads(*values(stages[target], "ENTRYPOINT"))[:2] == ["/usr/bin/tini", "--"]
    assert " tini" in " ".join(values(stages[f"{target}-base"], "RUN"))


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_has_labels_about_itself(stages: dict[str, Stage], target: str) -> None:
    [label] = [instruction for instruction in stages[target].instructions if instruction.name == "LABEL"]
    prefix = "org.opencontainers.image."
    assert {name.removeprefix(prefix) for name in label.pairs()} == {
        *("title", "description", "licenses", "version", "revision")
    }
    license_name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]
    assert label.pairs()[f"{prefix}licenses"] == license_name


@pytest.mark.parametrize("target", TARGETS)
def test_the_tools_that_build_an_image_are_not_in_the_image(stages: dict[str, Stage], target: str) -> None:
    assert stages[target].base == f"{target}-base"
    copied = [instruction for instruction in stages[target].instructions if instruction.name == "COPY"]
    assert {copy.words()[-1] for copy in copied} == {"/opt/traitwatch", "/opt/traitwatch-cache"}
    assert values(stages[target], "RUN") == []


def test_everything_from_an_index_is_checked_against_a_lock(stages: dict[str, Stage]) -> None:
    runs = [value for stage in stages.values() for value in values(stage, "RUN")]
    installs = [step for run in runs for step in run.split("&&") if re.search(r"pip install", step)]
    assert len(installs) == 6
    for step in installs:
        assert "--require-hashes" in step or "--offline" in step, step


def test_the_cuda_of_the_base_is_that_of_the_locked_torch(stages: dict[str, Stage]) -> None:
    base = re.fullmatch(r"nvidia/cuda:(\d+\.\d+)\.\d+-runtime-ubuntu24\.04", stages["gpu-base"].base)
    assert base is not None
    # torch depends on one exact version of the CUDA runtime: the one that it was built for.
    assert locked("gpu", "nvidia-cuda-runtime").startswith(f"{base[1]}.")


def test_the_context_has_the_copied_files_and_no_secret(stages: dict[str, Stage]) -> None:
    secret = ROOT / "dashboards" / ".env"
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    there = secret.exists()
    secret.touch()
    try:
        context = {Path(name) for name in exclude_paths(str(ROOT), patterns)}
    finally:
        if not there:
            secret.unlink()
    assert secret.relative_to(ROOT) not in context
    # A client always sends the two files that control the builder.
    assert {path.parts[0] for path in context} - {"Dockerfile", ".dockerignore"} == {
        *("LICENSE", "README.md", "builder", "dashboards", "locks", "pyproject.toml", "server", "traitwatch")
    }
    assert not [path for path in context if "__pycache__" in path.parts]
    assert not [path for path in context if path.name.endswith((".csv", ".csv.gz"))], "the image needs no answers files"
    for stage in stages.values():
        for copy in (instruction for instruction in stage.instructions if instruction.name == "COPY"):
            if copy.flag("from") is None:
                assert {Path(word) for word in copy.words()[:-1]} <= context
