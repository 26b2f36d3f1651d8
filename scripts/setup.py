"""Creates .venv and installs Traitwatch into it. setup.sh runs this with the usable Pythons as arguments, best first.

uv installs the packages: it takes seconds where pip takes minutes. uv gets pip's settings. uv resolves all packages to
exact versions before the first download, because a missing package shows then. On a machine without a GPU, vLLM needs a
CPU build of torch, which PyPI does not have. uv looks for this build first in the configured indexes and folders, and
then in PyTorch's own index.

The last step writes a stamp into .venv: a hash of everything that the set-up depends on. With the right stamp, a run
ends at once. Without a stamp, the last run did not finish, and the run makes .venv anew.
"""

import ast
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STAMP = VENV / "traitwatch-setup.json"
PINS = VENV / "requirements.txt"
INPUTS = (ROOT / "pyproject.toml", ROOT / "scripts" / "setup.sh", ROOT / "scripts" / "setup.py")

UV = "uv>=0.9,<1"
# pip's setting -> uv's variable for the same setting (uv's separator in a list differs from pip's white space)
PIP_TO_UV = {
    "find-links": ("UV_FIND_LINKS", ","),
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "cert": ("SSL_CERT_FILE", " "),
}
# vLLM requires these packages. Serving text does not need them. PyPI's builds of them fail beside a CPU build of torch.
OPTIONAL = ("torchvision", "torchaudio", "torchcodec")
TORCH_CPU = re.compile(r"\btorch==([\w.]+\+cpu)")


class SetupError(Exception):
    """The set-up cannot go on. The message is one sentence with the next step."""


class TorchMissingError(SetupError):
    """There is no CPU build of torch for this Python. There may be one for another Python."""


def say(text: str) -> None:
    """Print one line of progress."""
    sys.stdout.write(f"setup: {text}\n")
    sys.stdout.flush()


def choose_backend(environ: Mapping[str, str]) -> str:
    """Return the extra to install: `cpu` or `gpu`. BACKEND decides; without it, `gpu` if an NVIDIA driver answers."""
    backend = environ.get("BACKEND", "")
    if backend in ("cpu", "gpu"):
        return backend
    if backend:
        raise SetupError(f"BACKEND is {backend!r}, but must be cpu or gpu; leave it out to have it detected.")
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "cpu"
    return "gpu" if answer.returncode == 0 else "cpu"


def uv_settings(pip_config: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which uv looks where pip looks.

    Args:
        pip_config: the output of `pip config list`. A later layer (global, then install, then environment) wins.
        environ: the environment. Its settings for uv itself stay.
    """
    found: dict[tuple[int, str], str] = {}
    for line in pip_config.splitlines():
        match = re.fullmatch(r"(global|install|:env:)\.([\w-]+)=('.*'|\".*\")", line)
        if match and match[2] in PIP_TO_UV:
            layer = ("global", "install", ":env:").index(match[1])
            found[layer, match[2]] = str(ast.literal_eval(match[3]))
    # pip takes the best version from all indexes together. By default, uv stops at the first index with the package.
    settings = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    for (_, key), value in sorted(found.items()):
        variable, separator = PIP_TO_UV[key]
        settings[variable] = separator.join(value.split())
    return {**settings, **environ}


def run(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in the project's folder and capture its output."""
    return subprocess.run(
        command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def reason(result: subprocess.CompletedProcess[str]) -> str:
    """Return the reason of a failure: the end of the command's output."""
    return "\n".join((result.stderr or result.stdout).strip().splitlines()[-12:])


def create_venv(python: str) -> None:
    """Make .venv anew."""
    result = run([python, "-m", "venv", "--clear", VENV])
    if result.returncode:
        raise SetupError(
            f"{python} cannot create a virtual environment (Debian and Ubuntu have that in the package python3-venv):\n"
            + reason(result)
        )


def install_uv() -> dict[str, str]:
    """Install uv into .venv with pip. Return the environment for uv."""
    result = run([VENV_PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV])
    if result.returncode:
        raise SetupError(f"pip cannot install {UV}; check the network and pip's settings:\n{reason(result)}")
    config = run([VENV_PYTHON, "-m", "pip", "config", "list"])
    return uv_settings(config.stdout, os.environ)


def uv(command: str, *arguments: str | Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `uv pip COMMAND` for .venv."""
    return run([VENV / "bin" / "uv", "pip", command, "--python", VENV_PYTHON, *arguments], env)


def torch_index_answers(env: Mapping[str, str]) -> bool:
    """Return, within seconds, whether PyTorch's own index of CPU builds can be reached."""
    fast = {**env, "UV_HTTP_RETRIES": "0", "UV_HTTP_CONNECT_TIMEOUT": "5", "UV_HTTP_TIMEOUT": "10", "UV_FIND_LINKS": ""}
    # --reinstall: otherwise an installed torch would be enough for uv.
    question = ("--dry-run", "--reinstall", "--no-deps", "--torch-backend", "cpu", "torch")
    return uv("install", *question, env=fast).returncode == 0


def resolve(backend: str, env: Mapping[str, str]) -> list[str | Path]:
    """Write the exact version of every package to PINS. Return the options that the installation also needs."""

    def pin(*options: str | Path) -> subprocess.CompletedProcess[str]:
        extras = [option for extra in (backend, "ui", "dev") for option in ("--extra", extra)]
        arguments: list[str | Path] = ["--quiet", *extras, "--output-file", PINS, "pyproject.toml"]
        PINS.unlink(missing_ok=True)  # otherwise uv prefers the versions in this file
        return uv("compile", *arguments, *options, env=env)

    options: list[str | Path] = []
    result = pin()
    if backend == "gpu" and not result.returncode and (cpu_build := TORCH_CPU.search(PINS.read_text())):
        # A folder of wheels may hold a CPU build. uv takes such a build for newer than the plain version from PyPI.
        constraints = VENV / "constraints.txt"
        constraints.write_text(f"torch!={cpu_build[1]}\n")
        options = ["--constraints", constraints]
        result = pin(*options)
    elif backend == "cpu" and result.returncode and (missing := TORCH_CPU.search(result.stderr)):
        if not torch_index_answers(env):
            raise TorchMissingError(
                f"torch {missing[1]} for this Python is in none of pip's configured indexes and folders, and PyTorch's "
                "own index of CPU builds does not answer: set up where it does, or download that wheel elsewhere and "
                "set PIP_FIND_LINKS to the folder it lies in."
            )
        say("torch comes from PyTorch's own index of CPU builds")
        options = ["--torch-backend", "cpu"]
        result = pin(*options)
    if result.returncode:
        raise SetupError(f"the packages that pyproject.toml asks for cannot be found:\n{reason(result)}")
    return options


def install(options: Sequence[str | Path], env: Mapping[str, str]) -> None:
    """Install the packages in PINS, and Traitwatch itself as editable."""
    arguments: list[str | Path] = ["--requirements", PINS, "--editable", ".", *options]
    if sys.stderr.isatty():
        # uv shows progress bars: a GPU needs a download of gigabytes.
        command = [VENV / "bin" / "uv", "pip", "install", "--python", VENV_PYTHON, *arguments]
        if subprocess.run(command, cwd=ROOT, env=env, check=False).returncode:
            raise SetupError("uv cannot install the packages, for the reason above.")
    elif (result := uv("install", *arguments, env=env)).returncode:
        raise SetupError(f"uv cannot install the packages:\n{reason(result)}")


def imports(statement: str) -> subprocess.CompletedProcess[str]:
    """Run an import in .venv's Python.

    This writes bytecode even under PYTHONDONTWRITEBYTECODE, since the bytecode is only in .venv. Without the bytecode,
    every process of a server would compile the same four thousand modules, which takes 12 seconds each time.
    """
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return run([VENV_PYTHON, "-c", statement], env)


def remove_broken_optional(env: Mapping[str, str]) -> None:
    """Remove those OPTIONAL packages that do not import. transformers would import them, and fail."""
    broken = [
        name
        for name in OPTIONAL
        if re.search(rf"^{name}==", PINS.read_text(), re.MULTILINE) and imports(f"import {name}").returncode
    ]
    if not broken:
        return
    result = uv("uninstall", "--quiet", *broken, env=env)
    if result.returncode:
        raise SetupError(f"uv cannot remove {', '.join(broken)}:\n{reason(result)}")
    say(f"removed {', '.join(broken)}: not importable here, and not needed for text")


def check(backend: str) -> None:
    """Import the main packages, so that a broken installation shows here and not in the first server."""
    # An engine's worker imports half a thousand modules that no other process imports.
    worker = "import vllm.v1.worker.cpu_worker, vllm.model_executor.models.llama\n" if backend == "cpu" else ""
    result = imports(
        "import torch._inductor.compile_fx, vllm.entrypoints.openai.api_server, vllm.v1.engine.core\n"
        f"{worker}"
        "from transformers import AutoModelForCausalLM\n"
        "print(torch.version.cuda)"
    )
    if result.returncode:
        raise SetupError(f"vLLM is installed but does not import:\n{reason(result)}")
    if backend == "gpu" and result.stdout.split()[-1] == "None":
        raise SetupError(
            "the torch that pip's settings lead to is a CPU build; take it out of them, or set BACKEND=cpu."
        )


def build(backend: str, python: str, fresh: bool) -> None:
    """Bring .venv up to date, or make it anew."""
    if fresh:
        say(f"creating .venv with {python}")
        create_venv(python)
    env = install_uv()
    say(f"resolving the packages for the {backend} backend")
    options = resolve(backend, env)
    say(f"installing {len(re.findall('^[^ #].*==', PINS.read_text(), re.MULTILINE))} packages")
    install(options, env)
    say("checking that they import")
    remove_broken_optional(env)
    check(backend)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Wait until no other set-up works on this .venv."""
    with (ROOT / "pyproject.toml").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up in this folder to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read_stamp() -> dict[str, str]:
    """Return the stamp of the last finished set-up; empty if no set-up finished, or if its Python is gone."""
    if not VENV_PYTHON.exists():
        return {}
    try:
        stamp: dict[str, str] = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp


def set_up(pythons: Sequence[str], environ: Mapping[str, str]) -> None:
    """Set up .venv with the first Python that has all packages, unless .venv is up to date."""
    backend = choose_backend(environ)
    pythons = list(dict.fromkeys(str(Path(python).resolve()) for python in pythons))
    base = f"{backend}, Python {platform.python_version()} at {pythons[0]}, in {ROOT}"
    inputs = hashlib.sha256(b"".join(path.read_bytes() for path in INPUTS)).hexdigest()
    stamp = {"base": base, "inputs": inputs}
    if read_stamp() == stamp:
        return
    with alone():
        last = read_stamp()
        if last == stamp:
            return
        STAMP.unlink(missing_ok=True)
        fresh = last.get("base") != base
        for python in pythons:
            try:
                build(backend, python, fresh)
                break
            except TorchMissingError:
                if python == pythons[-1]:
                    raise
                fresh = True
        STAMP.write_text(json.dumps(stamp))
        say("done")


if __name__ == "__main__":
    try:
        set_up(sys.argv[1:], os.environ)
    except SetupError as error:
        sys.exit(f"setup: {error}")
    except KeyboardInterrupt:
        sys.exit("setup: interrupted; the next run starts over")
