"""Builds an image of the Dockerfile without a container engine. Each stage is a tree, and each instruction runs in it.

debootstrap makes `debian:bookworm-slim`. Other bases are unknown. RUN is executed as root in the tree, with the mounts
of the instruction. COPY takes files from the tree of a stage or from the build context, which has no files that
.dockerignore excludes.
"""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from docker.utils.build import exclude_paths

from tests.containers.dockerfile import Instruction, Stage, read_stages
from tests.containers.outside import Outside, uv_cache
from tests.containers.sandbox import Bind, Sandbox
from tests.support.paths import ROOT

_DEBIAN = {"debian:bookworm-slim": "bookworm"}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class BuildError(Exception):
    """An instruction failed. The message has the end of its output."""


@dataclass
class Image:
    """A stage that is built, with the settings of its instructions.

    Attributes:
        root: the tree of the stage.
        env: the environment of the stage.
        arguments: the build arguments: variables of the stage's RUN instructions only.
    """

    root: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": _PATH})
    arguments: dict[str, str] = field(default_factory=dict)
    directory: str = "/"
    user: str = "0:0"
    volumes: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    stop_signal: str = "SIGTERM"
    health: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


class Builder:
    """Builds stages of the repository's Dockerfile below a directory, each once."""

    def __init__(self, directory: Path, outside: Outside, mirror: str, say: Callable[[str], None]):
        """Make a builder without a built stage.

        Args:
            directory: the directory for the trees.
            outside: the settings for the builds.
            mirror: the address from which debootstrap takes Debian; empty for debootstrap's default.
            say: called with the text of every instruction.
        """
        self._directory = directory
        self._outside = outside
        self._mirror = mirror
        self._say = say
        self._stages = read_stages(ROOT / "Dockerfile")
        self._built: dict[str, Image] = {}

    def build(self, name: str) -> Image:
        """Return a stage. Build the stage and all stages that it needs."""
        if name not in self._built:
            self._built[name] = self._carry_out(self._stages[name])
        return self._built[name]

    def _carry_out(self, stage: Stage) -> Image:
        image = self._start(stage)
        for instruction in stage.instructions:
            self._say(f"{stage.name}: {instruction.name} {' '.join(instruction.value.split())[:110]}")
            if instruction.name == "RUN":
                self._run(image, instruction)
            elif instruction.name == "COPY":
                self._copy(image, instruction)
            else:
                self._set(image, instruction)
        return image

    def _start(self, stage: Stage) -> Image:
        root = self._directory / stage.name
        if stage.base in self._stages:
            base = self.build(stage.base)
            _clone(base.root, root)
            return Image(root, dict(base.env), {}, base.directory, base.user)
        pristine = self._directory / f"base-{_DEBIAN[stage.base]}"
        if not pristine.exists():
            self._say(f"debootstrap {_DEBIAN[stage.base]}")
            mirror = [self._mirror] if self._mirror else []
            _check(["debootstrap", "--variant=minbase", _DEBIAN[stage.base], str(pristine), *mirror])
        _clone(pristine, root)
        return Image(root)

    def _run(self, image: Image, instruction: Instruction) -> None:
        binds = list(self._outside.binds)
        for mount in instruction.mounts():
            if mount["type"] == "secret":
                binds.append(Bind(self._outside.secrets[mount["id"]], mount["target"]))
            elif mount["type"] == "cache" and mount["target"].endswith("uv"):
                binds.append(Bind(uv_cache(), mount["target"], writable=True))
            else:
                raise BuildError(f"RUN --mount={mount}: not known here.")
        env = {**self._outside.env, **image.env, **image.arguments}
        sandbox = Sandbox(image.root, env, image.directory, image.user, binds)
        completed = sandbox.run(["/bin/sh", "-c", instruction.value])
        if completed.returncode:
            raise BuildError(f"RUN {instruction.value}\n{(completed.stdout + completed.stderr)[-4000:]}")

    def _copy(self, image: Image, instruction: Instruction) -> None:
        *sources, target = instruction.words()
        stage = instruction.flag("from")
        source_root = self.build(stage).root if stage else self._context()
        place = image.root / str(Path(image.directory, target)).lstrip("/")
        for source in sources:
            path = source_root / source.lstrip("/")
            into = place / path.name if target.endswith("/") and path.is_file() else place
            into.parent.mkdir(parents=True, exist_ok=True)
            into_directory = ["--no-target-directory", str(path), str(into)]
            _check(["cp", "--recursive", "--no-dereference", "--preserve=mode,timestamps,links", *into_directory])

    def _context(self) -> Path:
        """Return the build context: the files of the repository that .dockerignore does not exclude."""
        context = self._directory / "context"
        if not context.exists():
            lines = (ROOT / ".dockerignore").read_text().splitlines()
            patterns = [line for line in lines if line and not line.startswith("#")]
            for name in exclude_paths(str(ROOT), patterns):
                if (ROOT / name).is_file():
                    (context / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / name, context / name)
        return context

    def _set(self, image: Image, instruction: Instruction) -> None:
        known = {**image.env, **image.arguments}
        match instruction.name:
            case "ENV":
                image.env |= {name: _expanded(value, known) for name, value in instruction.pairs().items()}
            case "ARG":
                for name, default in instruction.pairs().items():
                    image.arguments[name] = self._outside.arguments.get(name, default)
            case "LABEL":
                image.labels |= {name: _expanded(value, known) for name, value in instruction.pairs().items()}
            case "WORKDIR":
                image.directory = str(Path(image.directory, instruction.value))
                (image.root / image.directory.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "USER":
                image.user = instruction.value
            case "VOLUME":
                image.volumes += instruction.words()
            case "STOPSIGNAL":
                image.stop_signal = instruction.value
            case "HEALTHCHECK":
                image.health = Instruction("CMD", instruction.value.removeprefix("CMD").strip()).words()
            case "ENTRYPOINT":
                image.entrypoint = instruction.words()
            case "CMD":
                image.command = instruction.words()


def _expanded(value: str, known: dict[str, str]) -> str:
    return Template(value).substitute(known)


def _clone(source: Path, target: Path) -> None:
    _check(["cp", "--archive", "--reflink=auto", str(source), str(target)])


def _check(command: list[str]) -> None:
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    if completed.returncode:
        raise BuildError(f"{' '.join(command)}\n{(completed.stdout + completed.stderr)[-4000:]}")
