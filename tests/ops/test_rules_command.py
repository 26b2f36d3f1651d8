"""`traitwatch rules` divides durations and completes links, and changes nothing else in the shipped files."""

import difflib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.paths import ROOT
from traitwatch.cli import main
from traitwatch_dashboards.errors import DashboardError
from traitwatch_dashboards.prometheus.rules import (
    FILES,
    rendered,
    rules,
    scaled_duration,
    scaled_expression,
    write_files,
)

SHIPPED = ROOT / "dashboards" / "traitwatch_dashboards"
MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}


def milliseconds(duration: str) -> int:
    """Parse a duration by Prometheus's grammar: each unit at most once, in this order."""
    parts = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?", duration)
    assert parts, duration
    return sum(int(part or 0) * unit for part, unit in zip(parts.groups(), MILLISECONDS.values(), strict=True))


@pytest.mark.parametrize(
    ("duration", "speed_up", "expected"),
    [
        ("5m", 60, "5s"),
        ("1h", 60, "1m"),
        ("1d", 60, "24m"),
        ("30s", 60, "500ms"),
        ("1h30m", 2, "45m"),
        ("1w", 7, "1d"),
        ("1y", 365, "1d"),
        ("100ms", 100, "1ms"),
        ("10m", 7, "1m25s714ms"),
        ("1m", 0.5, "2m"),
        ("0s", 60, "0s"),
    ],
)
def test_a_duration_is_divided(duration: str, speed_up: float, expected: str) -> None:
    assert scaled_duration(duration, speed_up) == expected


def test_nothing_becomes_shorter_than_a_millisecond() -> None:
    with pytest.raises(DashboardError, match="10ms divided by 60 is less than a millisecond"):
        scaled_duration("10ms", 60)


@given(
    st.dictionaries(st.sampled_from(list(MILLISECONDS)), st.integers(1, 1000), min_size=1),
    st.floats(0.01, 1000),
)
def test_any_duration_is_divided_to_the_millisecond(parts: dict[str, int], speed_up: float) -> None:
    duration = "".join(f"{parts[unit]}{unit}" for unit in MILLISECONDS if unit in parts)
    wanted = milliseconds(duration) / speed_up
    assume(wanted >= 0.5001)
    assert abs(milliseconds(scaled_duration(duration, speed_up)) - wanted) <= 0.5 + 1e-6 * wanted


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("rate(x[5m])", "rate(x[5s])"),
        ("x offset 1d", "x offset 24m"),
        ("x offset -1h", "x offset -1m"),
        ("increase(x[1d] offset 30m)", "increase(x[24m] offset 30s)"),
        ("max_over_time(rate(x[5m])[1h:1m])", "max_over_time(rate(x[5s])[1m:1s])"),
        ("rate(x[ 1h30m ])", "rate(x[ 1m30s ])"),
        ("x[1h:]", "x[1m:]"),
        ("a:b:rate5m > 14.4", "a:b:rate5m > 14.4"),
        ("a:b:mean1d_offset30m", "a:b:mean1d_offset30m"),
        ("a_5m + b5m", "a_5m + b5m"),
        ("x{path=\"/5m\", other='1h', more=`1d`}", "x{path=\"/5m\", other='1h', more=`1d`}"),
        (r'x{a="\"[5m]"}[5m]', r'x{a="\"[5m]"}[5s]'),
        ("x[5m] # not these 5m\n", "x[5s] # not these 5m\n"),
        ("x > 1e3 and x > 0x5d and x > .5", "x > 1e3 and x > 0x5d and x > .5"),
        ("x == Inf or x == 5", "x == Inf or x == 5"),
        ("x @ 1609746000 offset 5m", "x @ 1609746000 offset 5s"),
        ("5m", "5s"),
    ],
)
def test_only_durations_are_divided(expression: str, expected: str) -> None:
    assert scaled_expression(expression, 60) == expected


NAMES = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,12}", fullmatch=True)


@given(NAMES, NAMES, st.sampled_from(["5m", "1h", "1d"]), st.integers(0, 10**6))
def test_a_name_is_never_touched(metric: str, label: str, duration: str, number: int) -> None:
    """Only the window changes, even where names and label values look like durations."""
    before = f'sum by ({label}) (rate({metric}{{{label}="{duration}"}}[{duration}])) > {number}'
    window = scaled_duration(duration, 60)
    after = f'sum by ({label}) (rate({metric}{{{label}="{duration}"}}[{window}])) > {number}'
    assert scaled_expression(before, 60) == after


@pytest.mark.parametrize("name", FILES)
def test_a_file_without_options_is_unchanged(name: str) -> None:
    text = (SHIPPED / name).read_text()
    assert rendered(text) == text


def test_only_values_with_a_time_change_and_comments_stay() -> None:
    text = (
        "# every 5m, see docs/runbooks.md\n"
        "groups:\n"
        "  - name: a5m # 5m\n"
        "    interval: 1m\n"
        "    rules:\n"
        "      - alert: A5m\n"
        "        expr: |\n"
        "          rate(x[5m]) # 5m\n"
        "            > 1\n"
        "        for: 10m # ten\n"
        "        keep_firing_for: 1h\n"
        "        annotations:\n"
        "          summary: in the last 5m\n"
        "          runbook_url: docs/runbooks.md#a5m\n"
    )
    expected = (
        "# every 5m, see docs/runbooks.md\n"
        "groups:\n"
        "  - name: a5m # 5m\n"
        "    interval: 1s\n"
        "    rules:\n"
        "      - alert: A5m\n"
        "        expr: |\n"
        "          rate(x[5s]) # 5m\n"
        "            > 1\n"
        "        for: 10s # ten\n"
        "        keep_firing_for: 1m\n"
        "        annotations:\n"
        "          summary: in the last 5m\n"
        "          runbook_url: https://example.org/r#a5m\n"
    )
    assert rendered(text, speed_up=60, runbooks="https://example.org/r") == expected


def test_a_quoted_expression_is_refused() -> None:
    with pytest.raises(DashboardError, match="'expr' in line 2 without quotes"):
        rendered('rules:\n  - expr: "rate(x[5m])"\n', speed_up=60)


def test_every_time_in_the_rules_is_sped_up(tmp_path: Path) -> None:
    """Only lines whose key has a time change. Every window, `for` and interval changes."""
    for name, path in zip(FILES, write_files(tmp_path, speed_up=60), strict=True):
        before, after = (SHIPPED / name).read_text(), path.read_text()
        long_windows = [line for line in after.splitlines() if re.search(r"\[\d+[hmd]\]|offset \d+[hd]", line)]
        assert all(re.search(r"\[(1m|6m|24m)\]", line) for line in long_windows), long_windows
        changed = [line[2:] for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] == "-"]
        assert all(re.search(r"\[\w+\]|(for|interval|wait): \w+$", line) for line in changed), changed
        assert changed


def test_the_command_writes_the_files_with_their_links(tmp_path: Path) -> None:
    out = tmp_path / "monitoring"
    result = CliRunner().invoke(rules, ["--out", str(out), "--runbooks", "https://example.org/runbooks"])
    assert result.exit_code == 0, result.output
    assert result.output.split() == [str(out / name) for name in FILES]
    groups = yaml.safe_load((out / "prometheus/alert_rules.yml").read_text())["groups"]
    links = [rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"]]
    assert links
    assert all(link.startswith("https://example.org/runbooks#") for link in links)


def test_the_command_overwrites_files_only_with_force(tmp_path: Path) -> None:
    existing = tmp_path / "prometheus" / "prometheus.yml"
    existing.parent.mkdir()
    existing.write_text("mine")
    result = CliRunner().invoke(rules, ["--out", str(tmp_path)])
    assert result.exit_code == 1
    assert f"{existing} would be written over" in result.output
    assert existing.read_text() == "mine"
    assert not (tmp_path / "alertmanager").exists()
    assert CliRunner().invoke(rules, ["--out", str(tmp_path), "--force"]).exit_code == 0
    assert existing.read_text() != "mine"


@pytest.mark.parametrize(
    ("speed_up", "reason"),
    [
        ("nan", "longer than Prometheus"),
        ("1e-308", "longer than Prometheus"),
        ("1e-9", "longer"),
        ("inf", "millisecond"),
    ],
)
def test_a_speed_up_that_makes_no_duration_is_refused(tmp_path: Path, speed_up: str, reason: str) -> None:
    result = CliRunner().invoke(rules, ["--out", str(tmp_path / "out"), "--speed-up", speed_up])
    assert result.exit_code == 1
    assert reason in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("runbooks", ["", "a: 'b", "x\n- y", "[1]", "{{ evil }}", "a #b", "&x", "\x00"])
def test_links_that_would_break_the_rules_are_refused(tmp_path: Path, runbooks: str) -> None:
    result = CliRunner().invoke(rules, ["--out", str(tmp_path / "out"), "--runbooks", runbooks])
    assert result.exit_code == 1
    assert result.output.startswith("Error: --runbooks ")
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "alertmanager").touch()
    (tmp_path / "folder" / "prometheus" / "prometheus.yml").mkdir(parents=True)
    for out in ("file/in", "half", "folder", "x" * 300):
        result = CliRunner().invoke(main, ["rules", "--force", "--out", str(tmp_path / out)])
        assert result.exit_code == 1
        assert re.match(rf"Error: {re.escape(str(tmp_path))}\S+ cannot be written: \w", result.output), result.output


def test_a_full_disk_leaves_no_half_written_file(tmp_path: Path) -> None:
    command = f"ulimit -f 4; {sys.executable} -P -m traitwatch rules --out {tmp_path / 'out'} 2>&1 | cat"
    output = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60).stdout
    assert re.match(r"Error: \S+_rules.yml cannot be written: File too large", output), output
    written = {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert written < set(map(Path, FILES))
    for name in written:
        assert (tmp_path / "out" / name).read_text() == (SHIPPED / name).read_text()


@pytest.mark.parametrize("speed_up", ["0", "-1"])
def test_a_speed_up_is_positive(tmp_path: Path, speed_up: str) -> None:
    result = CliRunner().invoke(rules, ["--out", str(tmp_path), "--speed-up", speed_up])
    assert result.exit_code == 2
