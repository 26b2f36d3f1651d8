"""Reads a Dockerfile into its stages.

dockerfile-parse finds the instructions. This module separates the flags from an instruction's value, and finds the
stages. It refuses the features that the Dockerfile of this repository does not use (heredocs, ONBUILD, ADD, SHELL).
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
        name: its name in capitals.
        value: the text after the name and the flags, with continuation lines joined.
        flags: name and value of each flag, in order. A flag may occur more than once.
    """

    name: str
    value: str
    flags: tuple[tuple[str, str], ...] = ()

    def flag(self, name: str) -> str | None:
        """Return the value of a flag, or None without the flag."""
        return dict(self.flags).get(name)

    def mounts(self) -> list[dict[str, str]]:
        """Return the fields of every `--mount`."""
        return [dict(pair.split("=", 1) for pair in value.split(",")) for name, value in self.flags if name == "mount"]

    def pairs(self) -> dict[str, str]:
        """Return the value read as KEY=VALUE words, quotes removed."""
        words = (word.partition("=") for word in shlex.split(self.value.replace("\\\n", " ")))
        return {name: value for name, _, value in words}

    def words(self) -> list[str]:
        """Return the value as a list: the elements of the JSON form, or the words."""
        if self.value.startswith("["):
            return [str(word) for word in json.loads(self.value)]
        return shlex.split(self.value)


@dataclass(frozen=True)
class Stage:
    """One stage: its name, its base, and its instructions after FROM."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)


def read_stages(path: Path) -> dict[str, Stage]:
    """Return the stages of a Dockerfile by name, in order.

    Raises:
        ValueError: it has an unknown instruction, or a stage without a name.
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
