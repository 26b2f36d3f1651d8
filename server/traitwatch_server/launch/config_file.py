"""Reads the file of `--config`: options of vLLM, as vLLM's own `--config` takes them, and our options beside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from traitwatch_server.errors import ConfigError

# Options of our command that end it, or name a file of options.
_NOT_IN_A_FILE = ("--help", "--vllm-help", "--config")
# Options whose values no message shows.
_SECRET = ("admin_key",)


def read_config_file(context: click.Context, _: click.Parameter, files: tuple[Path, ...]) -> dict[str, Any] | None:
    """Make our options in the file the defaults of the command, and return the other options, for vLLM.

    This is the callback of an eager option: it runs before our other options are read. The command line wins over the
    file.

    Returns:
        The options for vLLM, by name; None without a file.

    Raises:
        ConfigError: the file cannot be read, or has a value that our option cannot have.
    """
    if not files:
        return None
    if len(files) > 1:
        raise ConfigError(f"--config is given {len(files)} times; put all options into one file.")
    options = _read(files[0])
    if "config" in options:
        raise ConfigError(
            f"--config {files[0]} names another file of options (`config`); put all options into one file."
        )
    ours = _our_options(context.command)
    context.default_map = {
        **(context.default_map or {}),
        **{
            str(ours[_flag(name)].name): _value(ours[_flag(name)], name, value, files[0])
            for name, value in options.items()
            if _flag(name) in ours
        },
    }
    return {name: value for name, value in options.items() if _flag(name) not in ours}


def _read(file: Path) -> dict[str, Any]:
    try:
        options = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {file} cannot be read ({error.strerror}); name a YAML file.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--config {file} is not YAML ({reason}); write a line `option: value` for each.") from error
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        raise ConfigError(f"--config {file} has no options; write a line `option: value` for each.")
    return options


def _our_options(command: click.Command) -> Mapping[str, click.Option]:
    """Return our options by their names on the command line."""
    options = (parameter for parameter in command.params if isinstance(parameter, click.Option))
    return {name: option for option in options for name in option.opts if name not in _NOT_IN_A_FILE}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _value(option: click.Option, name: str, value: Any, file: Path) -> Any:
    """Return the value of one of our options as click takes a default."""
    wanted = "true or false" if option.is_flag else "a value, or a list of values" if option.multiple else "one value"
    values = value if isinstance(value, list) and option.multiple else [value]
    fits = [isinstance(one, bool) if option.is_flag else isinstance(one, str | int | float) for one in values]
    if not all(fits) or (not option.is_flag and any(isinstance(one, bool) for one in values)):
        given = f"a {type(value).__name__}" if option.name in _SECRET else repr(value)
        raise ConfigError(f"--config {file}: `{name}` is {given}; give {wanted}.")
    if option.name in _SECRET and not isinstance(value, str):
        # YAML would change digits: 0123 is 83, and 12_34 is 1234.
        raise ConfigError(f"--config {file}: YAML reads `{name}` as a number; put it in quotes.")
    if option.is_flag:
        return value
    return [str(one) for one in values] if option.multiple else str(value)
