"""The doctor's report: the checks and their verdicts, as Markdown that a user can paste into an issue.

It holds figures, versions and the model's name. It holds no texts, no paths and no name of the machine.
"""

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

_PART = r"/[^\s/'\",;:()\[\]{}]+"
_PATH = re.compile(rf"(?<![\w:/.~-])(?:(?:~\w*|\.{{1,2}})(?:{_PART})+|(?:{_PART}){{2,}})/?")
_ADDRESS = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b")


class Verdict(Enum):
    """The outcome of a check."""

    PASS = "pass"
    FAIL = "FAIL"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Table:
    """The figures of a check: a header, and rows with as many cells as the header."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Check:
    """One check and its outcome.

    Attributes:
        name: e.g. `parity`.
        verdict: its outcome.
        why: a sentence or two: the check and its result, or why it was not run.
        table: its figures.
    """

    name: str
    verdict: Verdict
    why: str
    table: Table | None = None


@dataclass(frozen=True)
class Report:
    """The whole report.

    Attributes:
        model: the model's name in the report.
        environment: name and value of each fact about machine, installation and model.
        checks: the checks, in order.
        not_covered: the parts of vLLM that the checks on this machine do not cover.
    """

    model: str
    environment: Sequence[tuple[str, str]]
    checks: Sequence[Check]
    not_covered: Sequence[str]

    @property
    def passed(self) -> bool:
        """Whether every check was run and passed."""
        return all(check.verdict is Verdict.PASS for check in self.checks)

    def markdown(self) -> str:
        """Return the report as Markdown."""
        lines = [f"## Traitwatch doctor: {self.model}", ""]
        lines += _table(Table(("", ""), self.environment))
        lines += ["", *_table(Table(("check", "verdict"), [(c.name, f"**{c.verdict.value}**") for c in self.checks]))]
        for check in self.checks:
            lines += ["", f"### {check.name}: {check.verdict.value}", "", check.why]
            if check.table is not None:
                lines += ["", *_table(check.table)]
        if self.not_covered:
            lines += ["", "This report says nothing about: " + "; ".join(self.not_covered) + "."]
        return without_private("\n".join(lines)) + "\n"


def without_private(text: str) -> str:
    """Return a text without directories (the last part of a path stays), addresses and the machine's name."""
    text = _PATH.sub(lambda found: "…/" + found[0].rstrip("/").rpartition("/")[2], text)
    text = _ADDRESS.sub("[address]", text)
    name = socket.gethostname()
    return re.sub(rf"\b{re.escape(name)}\b", "[host]", text) if name else text


def _table(table: Table) -> list[str]:
    rows = [table.header, ["---"] * len(table.header), *table.rows]
    return ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
