"""Every command works in a folder with the user's own modules, which have the names of our folders and raise errors.

The tests run the editable install and the wheel. A command must never import the modules of the folder. Without `-P`,
a child that starts with `python -m` searches its working folder first.
"""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.paths import ROOT
from tests.support.random_llama import LAYER_OPTIONS
from tests.support.serving import MODEL_NAME, environment, serving
from traitwatch.processes import free_port

pytestmark = pytest.mark.engine

BIN = Path(sys.executable).parent
START_TIMEOUT = 300.0
RAISES = "raise RuntimeError('a module of the user was imported')\n"


@dataclass(frozen=True)
class Installation:
    """An installed Traitwatch: its command, and the folder of the package that this command imports."""

    command: Path
    package: Path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel in its own environment. Its dependencies come from this environment."""
    directory = tmp_path_factory.mktemp("wheel")
    # pip finds the build backend with the user's settings of its index, which uv does not read.
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", directory / "dist", ROOT]
    subprocess.run(build, check=True, timeout=600)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory / "venv"], check=True, timeout=600)
    python = directory / "venv" / "bin" / "python"
    (built,) = (directory / "dist").glob("*.whl")
    install = [BIN / "uv", "pip", "install", "--quiet", "--no-deps", "--offline", "--python", python, built]
    subprocess.run(install, check=True, timeout=600)
    (packages,) = (directory / "venv" / "lib").glob("python3*/site-packages")
    # A line of a .pth file adds a folder without the .pth files in that folder. So our editable install is not added.
    (packages / "dependencies.pth").write_text(next(path for path in sys.path if path.endswith("site-packages")) + "\n")
    return Installation(python.with_name("traitwatch"), packages)


@pytest.fixture(scope="module")
def editable() -> Installation:
    return Installation(BIN / "traitwatch", ROOT)


@pytest.fixture(scope="module", params=["editable", "wheel"])
def installation(request: pytest.FixtureRequest) -> Installation:
    found: Installation = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the test and its children."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("server", "dashboards", "traitwatch", "traitwatch_server", "vllm", "numpy", "torch", "json"):
        (folder / f"{name}.py").write_text(RAISES)
    for name in ("builder", "tests"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(RAISES)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    # vLLM reads a model's class in a Python of its own only where it does not remember the class.
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "vllm"))
    return folder


def run(*command: object) -> str:
    """Run a command to its end, and return its output."""
    done = subprocess.run(
        list(map(str, command)), env=environment(), capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_command_is_that_of_the_installation(installation: Installation, folder: Path) -> None:
    python = installation.command.with_name("python")
    assert Path(run(python, "-P", "-c", "import traitwatch; print(traitwatch.__file__)").strip()).is_relative_to(
        installation.package
    )


def test_help_and_dry_run(installation: Installation, folder: Path, model: Path) -> None:
    assert "Usage: traitwatch doctor" in run(installation.command, "doctor", "--help")
    run(installation.command, "build", "paternalism", "--model", model, "--out", folder / "out", "--dry-run")


def test_the_inspector(installation: Installation, folder: Path) -> None:
    port = free_port()
    command = [installation.command, "ui", "--port", str(port), "--url", "http://127.0.0.1:9"]
    with (folder / "ui.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment(), stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while not _healthy(f"http://127.0.0.1:{port}/traitwatch/health"):
            assert process.poll() is None, (folder / "ui.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        process.terminate()
        process.wait(60)


def test_serve(editable: Installation, folder: Path, model: Path, probes: Path) -> None:
    command = [str(editable.command), "serve", str(model), "--traits", str(probes), *LAYER_OPTIONS]
    with serving([*command, "--dtype", "float32", "--enforce-eager"], folder / "serve.log") as server:
        body = {"model": MODEL_NAME, "prompt": "A", "max_tokens": 4}
        answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=120).raise_for_status().json()
        assert answer["choices"][0]["traits_complete"] is True


def test_demo(wheel: Installation, folder: Path) -> None:
    assert "after paternalistic replies" in run(wheel.command, "demo", "--once")


def _healthy(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).status_code == 200
    except httpx.TransportError:
        return False
