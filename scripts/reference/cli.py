"""Makes the sections on the commands from the texts of `traitwatch COMMAND --help`."""

import inspect
import re
import textwrap
from collections.abc import Iterator

import click

from traitwatch import cli

from .markdown import table


def commands() -> str:
    """Return a section for each command."""
    group = cli.main
    with click.Context(group, info_name="traitwatch", **group.context_settings) as root:
        return "\n".join(_section(root, name) for name in group.list_commands(root))


def _section(root: click.Context, name: str) -> str:
    command = cli.main.get_command(root, name)
    if command is None:
        raise LookupError(name)
    with click.Context(command, info_name=name, parent=root, **command.context_settings) as context:
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        rows = [record for parameter in command.get_params(context) if (record := _record(parameter, context))]
        return f"## {name}\n\n    {usage}\n\n{_prose(command)}\n\n{table(('option', 'meaning'), rows)}"


def _record(parameter: click.Parameter, context: click.Context) -> tuple[str, str] | None:
    record = parameter.get_help_record(context)
    # The usage line has the arguments. An argument has a help text only where the usage line is not enough.
    return None if record is None or not record[1] else (f"`{record[0]}`", _escaped(record[1]))


def _prose(command: click.Command) -> str:
    """Return a command's description. Paragraphs that click does not wrap become code."""
    return "\n\n".join(_paragraphs(inspect.cleandoc(command.help or "")))


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        if paragraph.startswith("\b"):
            yield textwrap.indent(textwrap.dedent(paragraph.removeprefix("\b").strip("\n")), "    ")
        else:
            yield _escaped(" ".join(paragraph.split()))


def _escaped(text: str) -> str:
    """Return text with escaped Markdown outside of code, in which each option is code."""
    parts = re.split(r"(`[^`]*`)", text)
    for i in range(0, len(parts), 2):
        plain = re.sub(r"([<>*_])", r"\\\1", parts[i])
        parts[i] = re.sub(r"(?<![\w`])(--[a-z][a-z-]*)", r"`\1`", plain)
    return "".join(parts)
