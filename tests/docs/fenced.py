"""The blocks of code in a Markdown page, each line with its number."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)")
_INDENT = "    "


@dataclass(frozen=True)
class Line:
    """A line of a block.

    Attributes:
        number: the number of the line in its page, from 1.
        language: the language of the block's fence; empty for a fence without a language, and for an indented block.
        text: the line without the block's own indent.
    """

    number: int
    language: str
    text: str


def code_lines(page: Path) -> Iterator[Line]:
    """Yield the lines of a page's blocks, fenced or indented, in their order, without the fences."""
    fence: re.Match[str] | None = None
    for number, text in enumerate(page.read_text("utf-8").splitlines(), start=1):
        opened = _FENCE.match(text)
        if fence is not None and text.strip() == "```":
            fence = None
        elif fence is not None:
            yield Line(number, fence["language"], text.removeprefix(fence["indent"]))
        elif opened:
            fence = opened
        elif text.startswith(_INDENT):
            yield Line(number, "", text.removeprefix(_INDENT))
