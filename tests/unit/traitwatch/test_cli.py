"""The `traitwatch` command answers quickly, and every subcommand exists."""

import importlib
import re
import subprocess
import sys
import tomllib

import click
import pytest
from click.testing import CliRunner

from tests.support.paths import ROOT
from traitwatch import cli

HEAVY = ("torch", "transformers", "vllm")


def test_help_lists_the_subcommands_and_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom traitwatch import cli\n"
        "try:\n"
        "    cli.main(['--help'])\n"
        "finally:\n"
        f"    print('heavy:', [name for name in {HEAVY} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "heavy: []" in result.stdout
    for name, (_, line) in cli.COMMANDS.items():
        assert name in result.stdout
        assert line.split()[0] in result.stdout


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_subcommand_resolves(name: str) -> None:
    module, attribute = cli.COMMANDS[name][0].split(":")
    assert isinstance(getattr(importlib.import_module(module), attribute), click.Command)


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_subcommand_explains_itself(name: str) -> None:
    result = CliRunner().invoke(cli.main, [name, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_an_unknown_subcommand_is_a_usage_error() -> None:
    result = CliRunner().invoke(cli.main, ["sevre"])
    assert result.exit_code == 2
    assert "No such command 'sevre'" in result.output
    assert "--help" in result.output


def test_version_is_that_of_the_package() -> None:
    result = CliRunner().invoke(cli.main, ["--version"])
    assert result.exit_code == 0
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert result.output == f"traitwatch, version {project['version']}\n"
    newest = re.search(r"^## (\S+?),", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == project["version"]
