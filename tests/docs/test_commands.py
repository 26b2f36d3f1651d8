"""Every `traitwatch` command line of the documents parses.

click's own parser checks the names of options and their numbers of values. vLLM's parser checks the options that
`serve` and `doctor` hand on. The tests do not check values of our options: pages have MODEL and DIR. The tests skip a
synopsis: it has brackets.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.docs.fenced import code_lines
from tests.support.paths import ROOT
from traitwatch.cli import main
from traitwatch_server.launch.vllm_serve import parse_vllm_arguments

_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# The languages of a program's output: it has no commands.
_OUTPUT = {"text", "json"}
_COMMAND = re.compile(r"(?:^|[\s(/;&|])traitwatch\s+(?=[a-z])")
_INLINE = re.compile(r"`(traitwatch [a-z][^`]*)`")
_VARIABLE = re.compile(r"\$\{?\w+\}?")
_REDIRECTION = re.compile(r"\d?>{1,2}\s*(?:&\d|\S+)")
_ENDS = set("();<>|&")
_HANDED_ON = "vllm_arguments"


def test_a_wrong_option_is_found() -> None:
    for wrong in (
        "traitwatch build evil --modell X",
        "traitwatch serve M --traits D --max-modellen 5",
        "traitwatch pray",
    ):
        with pytest.raises((click.UsageError, AssertionError, SystemExit)):
            _parse(wrong)


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_parse(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for number, line in _command_lines(page):
        try:
            _parse(line)
        except (click.UsageError, AssertionError) as error:
            wrong.append(f"{page.name}:{number}: {line}: {error}")
        except SystemExit as ended:
            if ended.code:
                wrong.append(f"{page.name}:{number}: {line}: {capsys.readouterr().err.strip()}")
    assert not wrong, "\n".join(wrong)


def _command_lines(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the command lines of a page with the number of their first line. Continued lines are joined."""
    begun = ""
    for line in code_lines(page):
        if line.language in _OUTPUT:
            continue
        joined = f"{begun} {line.text.strip()}".strip()
        begun = joined.removesuffix("\\") if joined.endswith("\\") else ""
        if not begun and _COMMAND.search(joined):
            yield line.number, joined
    in_code = {line.number for line in code_lines(page)}
    for number, text in enumerate(page.read_text("utf-8").splitlines(), start=1):
        if number not in in_code:
            yield from ((number, _whole(command)) for command in _INLINE.findall(text))


def _whole(command: str) -> str:
    """Return a command with a value for its last option, as in `traitwatch serve --traits`."""
    return f"{command} 1" if command.split()[-1].startswith("-") else command


def _parse(line: str) -> None:
    """Parse the commands in a line of shell.

    Raises:
        click.UsageError: click's parser refuses the line.
        SystemExit: vLLM's parser refuses the line, and has printed why.
        AssertionError: there is no such command.
    """
    # Replace every variable by a number: a port must be a number, and a model may be one.
    plain = _VARIABLE.sub("1", _REDIRECTION.sub("", line).replace("$(traitwatch model)", "MODEL"))
    for command in _COMMAND.split(plain)[1:]:
        words = _words(command)
        if any(word.startswith("[") for word in words):
            continue
        name, *arguments = words
        root = click.Context(main, **main.context_settings)
        found = main.get_command(root, name)
        assert found is not None, f"there is no command {name!r}"
        context = click.Context(found, info_name=name, parent=root, **found.context_settings)
        options, *_ = found.make_parser(context).parse_args(arguments)
        # Without values, click gives an object that is no list.
        if isinstance(options.get(_HANDED_ON), list | tuple):
            parse_vllm_arguments(list(options[_HANDED_ON]))


def _words(command: str) -> list[str]:
    """Split a command like the shell, up to its end."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = []
    try:
        for word in lexer:
            if set(word) <= _ENDS:
                break
            words.append(word)
    except ValueError:
        # A quote around the whole command ends behind the command.
        pass
    return words
