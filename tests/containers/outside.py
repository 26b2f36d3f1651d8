"""The settings of this machine that a build needs: the sources of packages.

The build gets them as from a user: certificates and proxies by the environment, the settings of uv and pip as the
secrets that the Dockerfile names, and apt's settings by a file. None of them stays in the tree.
"""

import ast
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.containers.sandbox import Bind

_VARIABLES = re.compile(r"(SSL_CERT_FILE|\w+_CA_BUNDLE|(https?|no|all)_proxy)", re.IGNORECASE)
_PIP_KEYS = {"index-url", "extra-index-url", "find-links", "cert", "timeout", "default-timeout"}
_LOCAL = re.compile(r"(?<![^\s])(file://)?(/\S+)")
# Files and directories of the machine are mounted below this path.
_INSIDE = "/mnt/outside"


@dataclass(frozen=True)
class Outside:
    """The settings for a build.

    Attributes:
        env: variables of every RUN.
        binds: mounts of every RUN.
        secrets: the file of each secret by name.
        arguments: build arguments.
    """

    env: dict[str, str]
    binds: list[Bind]
    secrets: dict[str, Path]
    arguments: dict[str, str]


def of_this_machine(directory: Path) -> Outside:
    """Read the settings of this machine. Write files to `directory`."""
    pip_settings = _pip_settings()
    folders = pip_settings.get("find-links", "").split()
    arguments = {"TORCH_OPTIONS": ""} if any(Path(folder).glob("torch-*+cpu-*") for folder in folders) else {}
    apt, pip, uv = directory / "apt.conf", directory / "pip.conf", directory / "uv.toml"
    apt.write_text(_output("apt-config", "dump", "Acquire"))

    env = {name: value for name, value in os.environ.items() if _VARIABLES.fullmatch(name)}
    if "cert" in pip_settings:
        # uv does not read the settings of pip.
        env.setdefault("SSL_CERT_FILE", pip_settings["cert"])
    env["APT_CONFIG"] = str(apt)
    values = [*env.values(), *pip_settings.values()]
    paths = {Path(found[2]) for value in values for found in _LOCAL.finditer(value)}
    binds = [Bind(path, f"{_INSIDE}{path}") for path in sorted(_outermost(paths)) if path.exists()]

    settings = {key: _inside(value) for key, value in pip_settings.items()}
    pip.write_text("\n".join(["[global]", *(f"{key} = {value}" for key, value in settings.items())]) + "\n")
    lines = [f"find-links = {settings.get('find-links', '').split()}"]
    if "index-url" in settings:
        lines.append(f"index-url = '{settings['index-url']}'")
    uv.write_text("\n".join(lines) + "\n")
    return Outside(
        env={name: _inside(value) for name, value in env.items()},
        binds=[Bind(Path("/etc/resolv.conf"), "/etc/resolv.conf"), *binds],
        secrets={"pip": pip, "uv": uv},
        arguments=arguments,
    )


def _inside(value: str) -> str:
    """Return a setting with the paths inside of the tree."""
    return _LOCAL.sub(rf"\1{_INSIDE}\2", " ".join(value.split()))


def uv_cache() -> Path:
    """Return the directory of this machine's uv cache. The directory exists."""
    cache = Path(_output(str(Path(sys.executable).parent / "uv"), "cache", "dir").strip())
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def debian_mirror() -> str:
    """Return the address from which this machine's apt takes Debian 12; empty for debootstrap's default."""
    targets = _output("apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages")
    found = [site for site, release in (line.split() for line in targets.splitlines()) if release == "bookworm"]
    return found[0] if found else ""


def _pip_settings() -> dict[str, str]:
    listed = _output(sys.executable, "-m", "pip", "config", "list")
    found = re.findall(r"^(?:global|install|:env:)\.([\w-]+)=('.*'|\".*\")$", listed, re.MULTILINE)
    return {key: str(ast.literal_eval(value)) for key, value in found if key in _PIP_KEYS}


def _outermost(paths: set[Path]) -> set[Path]:
    """Return the folders to mount. For an index in `.../simple`, take the folder above, which has the files."""
    widened = {path.parent if path.name == "simple" else path for path in paths}
    return {path for path in widened if not widened.intersection(path.parents)}


def _output(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
