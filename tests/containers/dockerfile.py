"""Reads a Dockerfile into its stages.

dockerfile-parse tells the instructions; the flags in front of an instruction's value and the stages are told here. What
the Dockerfile of this repository does not use (heredocs, ONBUILD, ADD, SHELL) is refused instead of being passed over.
"""

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser

KNOWN = {"RUN", "COPY", "ENV", "ARG", "WORKDIR", "USER", "VOLUME", "LABEL"}
KNOWN |= {"EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
_FLAG = re.compile(r"--(?P<name>[a-z-]+)=(?P<value>\S+)\s+")


@dataclass(frozen=True)
class Instruction:
    """One instruction of a stage.

    Attributes:
        name: in capitals.
        value: what follows the name and the flags, continuation lines joined.
        flags: name and value of each flag, in order; a flag may come more than once.
    """

    name: str
    value: str
    flags: tuple[tuple[str, str], ...] = ()

    def flag(self, name: str) -> str | None:
        """Return the value of a flag; None where it is not given."""
        return dict(self.flags).get(name)

    def mounts(self) -> list[dict[str, str]]:
        """Return the fields of every `--mount`."""
        return [dict(pair.split("=", 1) for pair in value.split(",")) for name, value in self.flags if name == "mount"]

    def pairs(self) -> dict[str, str]:
        """Return the value read as KEY=VALUE words, quotes removed."""
        words = (word.partition("=") for word in shlex.split(self.value.replace("\\\n", " ")))
        return {name: value for name, _, value in words}

    def words(self) -> list[str]:
        """Return the value as a list: of the JSON form, or of the words."""
        if self.value.startswith("["):
            return [str(word) for word in json.loads(self.value)]
        return shlex.split(self.value)


@dataclass(frozen=True)
class Stage:
    """One stage: its name, what it starts from, and its instructions after FROM."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)


def read_stages(path: Path) -> dict[str, Stage]:
    """Return the stages of a Dockerfile by name, in order.

    Raises:
        ValueError: it has an instruction that is not known here, or a stage without a name.
    """
    with path.open("rb") as file:
        structure = DockerfileParser(fileobj=file).structure
    stages: dict[str, Stage] = {}
    for line in structure:
        name, value = line["instruction"], line["value"]
        if name == "COMMENT":
            continue
        if name == "FROM":
            found = re.fullmatch(r"(\S+) AS ([a-z-]+)", value)
            if found is None:
                raise ValueError(f"FROM {value}: give the stage a name.")
            stages[found[2]] = current = Stage(found[2], found[1])
        elif name in KNOWN and "<<" not in value:
            current.instructions.append(_instruction(name, value))
        else:
            raise ValueError(f"{name} {value}: not known here.")
    return stages


def _instruction(name: str, value: str) -> Instruction:
    flags = []
    while name in ("RUN", "COPY", "HEALTHCHECK") and (found := _FLAG.match(value)):
        flags.append((found["name"], found["value"]))
        value = value[found.end() :]
    return Instruction(name, value, tuple(flags))
