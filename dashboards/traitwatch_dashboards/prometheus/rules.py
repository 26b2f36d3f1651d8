"""`traitwatch rules`: writes the shipped files of Prometheus and Alertmanager, ready to load.

There is one set of files, with literal durations. `write_files` can change two things: the address of the runbook page,
and the durations, which a speed-up divides, so that a test or a demonstration takes a minute instead of an hour. Both
changes edit the text at the positions that the YAML parser gives, so all comments stay. The durations in an expression
are found by the lexical rules of PromQL, so strings, comments and metric names such as `...:rate5m` stay unchanged.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import click
import yaml

from traitwatch.files import write_atomically
from traitwatch_dashboards.errors import DashboardError

# Every runbook_url of the shipped files begins with this path of the page in this repository.
RUNBOOKS = "docs/runbooks.md"
# Relative to the package, and to the directory that is written to.
FILES = (
    "prometheus/prometheus.yml",
    "prometheus/recording_rules.yml",
    "prometheus/alert_rules.yml",
    "alertmanager/alertmanager.yml",
)
_TIMED_KEYS = {"expr", "for", "keep_firing_for"}
_TIMED_KEYS |= {"interval", "scrape_interval", "evaluation_interval"}
_TIMED_KEYS |= {"group_wait", "group_interval", "repeat_interval"}
_SECOND, _DAY = 1_000, 86_400_000
_MILLISECONDS = {
    "y": 365 * _DAY,
    "w": 7 * _DAY,
    "d": _DAY,
    "h": 3_600 * _SECOND,
    "m": 60 * _SECOND,
    "s": _SECOND,
    "ms": 1,
}
# Prometheus counts nanoseconds in 64 bits.
_LONGEST = 2**63 // 10**6
# Years and weeks are read but not written: nobody expresses a scaled window in them.
_WRITTEN = ("d", "h", "m", "s", "ms")
_PART = re.compile(r"(\d+)(ms|[ywdhms])")
_DURATION = re.compile(r"(?:\d+(?:ms|[ywdhms]))+")
# The alternatives have the order of PromQL's lexer. Brackets contain only durations and the colon of a subquery;
# elsewhere a colon would begin a name.
_TOKEN = re.compile(
    rf"""
      "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | `[^`]*`
    | \#[^\n]*
    | [A-Za-z_:][A-Za-z0-9_:]*
    | 0[xX][0-9a-fA-F]+
    | (?P<range> \[[^\]]*\] )
    | (?P<duration> {_DURATION.pattern} )
    | (?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?
    """,
    re.VERBOSE | re.ASCII,
)


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("monitoring"),
    show_default=True,
    help="Directory to write to. The files go into prometheus/ and alertmanager/ in it.",
)
@click.option(
    "--runbooks",
    metavar="URL",
    default=RUNBOOKS,
    help="Where your people read docs/runbooks.md; every alert links into it.",
)
@click.option(
    "--speed-up",
    metavar="N",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    help="Divide every duration by N: for trials, never for production.",
)
@click.option("--force", is_flag=True, help="Replace files that exist.")
def rules(*, out: Path, runbooks: str, speed_up: float, force: bool) -> None:
    """Write the Prometheus and Alertmanager files: scrape configuration, rules, alerts, routing."""
    try:
        for path in write_files(out, speed_up=speed_up, runbooks=runbooks, force=force):
            click.echo(path)
    except DashboardError as error:
        raise click.ClickException(str(error)) from error


def write_files(out: Path, *, speed_up: float = 1.0, runbooks: str = RUNBOOKS, force: bool = False) -> list[Path]:
    """Write the shipped files below `out` and return their paths, in the order of `FILES`.

    Args:
        out: the directory; created where it is missing.
        speed_up: divisor of the durations.
        runbooks: replacement for `RUNBOOKS` in the links of the alerts.
        force: whether existing files may be replaced.

    Raises:
        DashboardError: a file exists already or cannot be written, the links would not be text, or a duration would
            become too short or too long.
    """
    if _yaml_text(f"{runbooks}#x") != f"{runbooks}#x" or "{{" in runbooks or not runbooks:
        raise DashboardError(f"--runbooks {runbooks!r} is no address; give one such as https://wiki/traitwatch.")
    paths = [out / name for name in FILES]
    existing = [str(path) for path in paths if os.path.lexists(path)]
    if existing and not force:
        raise DashboardError(f"{', '.join(existing)} would be written over; give another --out, or --force.")
    shipped = Path(__file__).parents[1]
    texts = [rendered((shipped / name).read_text("utf-8"), speed_up=speed_up, runbooks=runbooks) for name in FILES]
    for path, text in zip(paths, texts, strict=True):
        write_atomically(path, text.encode())
    return paths


def rendered(text: str, *, speed_up: float = 1.0, runbooks: str = RUNBOOKS) -> str:
    """Return the text of a shipped file with divided durations and complete links; all other text stays unchanged.

    Raises:
        DashboardError: a duration would become shorter than a millisecond, or a value with durations is in quotes.
    """
    pieces: list[str] = []
    done = 0
    for key, value in _values(yaml.compose(text, yaml.SafeLoader)):
        start, end = value.start_mark.index, value.end_mark.index
        if key in _TIMED_KEYS and speed_up != 1:
            if value.style in ("'", '"'):
                raise DashboardError(f"write the value of {key!r} in line {value.start_mark.line + 1} without quotes.")
            new = scaled_expression(text[start:end], speed_up)
        elif key == "runbook_url":
            new = text[start:end].replace(RUNBOOKS, runbooks, 1)
        else:
            continue
        pieces += [text[done:start], new]
        done = end
    return "".join([*pieces, text[done:]])


def scaled_expression(expression: str, speed_up: float) -> str:
    """Return a PromQL expression, or a bare duration, with every duration in it divided by `speed_up`."""

    def scaled(token: re.Match[str]) -> str:
        if token["range"] is None and token["duration"] is None:
            return token[0]
        return _DURATION.sub(lambda duration: scaled_duration(duration[0], speed_up), token[0])

    return _TOKEN.sub(scaled, expression)


def scaled_duration(duration: str, speed_up: float) -> str:
    """Return a duration such as `1h30m` divided by `speed_up`, to the millisecond, in the same notation.

    Raises:
        DashboardError: the result would be shorter than a millisecond, or longer than Prometheus allows.
    """
    before = sum(int(number) * _MILLISECONDS[unit] for number, unit in _PART.findall(duration))
    # `not <` refuses "not a number" too.
    if not before / speed_up < _LONGEST:
        raise DashboardError(
            f"{duration} divided by {speed_up:g} is longer than Prometheus can count; choose a higher speed-up."
        )
    left = round(before / speed_up)
    if before and not left:
        raise DashboardError(f"{duration} divided by {speed_up:g} is less than a millisecond; choose a lower speed-up.")
    parts = []
    for unit in _WRITTEN:
        number, left = divmod(left, _MILLISECONDS[unit])
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0s"


def _yaml_text(text: str) -> str | None:
    """Return the value that a YAML parser reads where a file has this text as a value; None where it reads no text."""
    try:
        value = yaml.safe_load(f"key: {text}")["key"]
    except (yaml.YAMLError, KeyError, TypeError):
        return None
    return value if isinstance(value, str) else None


def _values(node: yaml.Node | None) -> Iterator[tuple[str, yaml.ScalarNode]]:
    """Yield every plain value of a YAML document with its key, in the order of the text."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(value, yaml.ScalarNode):
                yield key.value, value
            else:
                yield from _values(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _values(item)
