"""`traitwatch serve`: vLLM's own OpenAI server, with the tap in its workers and our plugin in its API process.

The command takes our options out of the command line. All others go to vLLM's own parser. Before an engine starts, the
command checks that vectors and model fit each other.
"""

import math
import os
import secrets
from contextlib import nullcontext
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from traitwatch.headers import ADMIN_HEADER
from traitwatch_server.errors import ConfigError
from traitwatch_server.launch.admin_key import read_admin_key
from traitwatch_server.launch.config_file import read_config_file
from traitwatch_server.launch.versions import check_vllm

if TYPE_CHECKING:
    from traitwatch_server.settings import Layer

_PLUGIN = "traitwatch"


def _show_vllm_help(context: click.Context, parameter: click.Parameter, group: str | None) -> None:
    if group is not None:
        check_vllm()
        from traitwatch_server.launch.vllm_serve import parse_vllm_arguments

        parse_vllm_arguments([f"--help={group}"])


def _with_hyphens(token: str) -> str:
    """Return the name of an option as ours are written; vLLM's own parser takes underscores too."""
    return token.replace("_", "-")


@click.command(
    context_settings={
        "ignore_unknown_options": True,
        "help_option_names": ["--help"],
        "token_normalize_func": _with_hyphens,
    }
)
@click.option(
    "--config",
    "vllm_config",
    type=click.Path(path_type=Path),
    multiple=True,
    is_eager=True,
    callback=read_config_file,
    metavar="FILE",
    help="YAML file of options, vLLM's and these, by name and without `--`. The command line wins over the file.",
)
@click.option(
    "--traits",
    "directories",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    metavar="DIR",
    help="Directory of persona vectors (<trait>_response_avg_diff.pt with their cards); may be given again.",
)
@click.option(
    "--traits-layer",
    "layers",
    multiple=True,
    metavar="[NAME=]LAYER",
    help="Layer index to read, 1 to the model's number of layers, or `best`, the best layer of the trait's card; with "
    "a trait's name, for that trait. May be given again.  [default: 20]",
)
@click.option(
    "--traits-admin",
    "admin",
    is_flag=True,
    help="Let an operator load and unload traits: POST and DELETE /v1/traits/NAME. Needs an admin key.",
)
@click.option(
    "--traits-admin-key",
    "admin_key",
    metavar="KEY",
    envvar="TRAITWATCH_ADMIN_KEY",
    show_envvar=True,
    help=f"The key of an operator, for GET /v1/spikes and --traits-admin: requests give it in the header "
    f"{ADMIN_HEADER}, beside the API key. Without it, these routes are off. Everybody on the machine can see a "
    "key on the command line: the environment variable and --traits-admin-key-file hide it.",
)
@click.option(
    "--traits-admin-key-file",
    "admin_key_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File with the key of an operator.",
)
@click.option(
    "--traits-tap",
    "spare_layers",
    type=click.IntRange(1),
    multiple=True,
    metavar="LAYER",
    help="Tap this layer too, for traits that are loaded later; may be given again.",
)
@click.option(
    "--traits-spike-rate",
    "spike_rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.01,
    show_default=True,
    metavar="RATE",
    help="Share of neutral responses that may have a spike. This rate chooses a threshold of each trait's card (0.01 "
    "or 0.001), and is the budget of the alerts.",
)
@click.option(
    "--traits-threshold",
    "thresholds",
    multiple=True,
    metavar="NAME=Z",
    help="Smoothed z above which a run of tokens of trait NAME is a spike, in place of the card's. May be given again.",
)
@click.option(
    "--traits-events",
    "events",
    metavar="FILE",
    help="Log every spike to FILE as a line of JSON; `-` for standard output. The log has no text unless you give "
    "--traits-events-text.",
)
@click.option("--traits-events-text", "events_text", is_flag=True, help="Log the prompt and the response too.")
@click.option(
    "--traits-events-max-mb",
    "events_max_mb",
    type=click.FloatRange(0),
    default=50,
    show_default=True,
    help="Size at which FILE is rotated, MiB; 0 for never.",
)
@click.option(
    "--traits-events-keep",
    "events_keep",
    type=click.IntRange(0),
    default=5,
    show_default=True,
    help="Rotated files to keep.",
)
@click.option(
    "--traits-default",
    "default",
    type=click.Choice(["tokens", "summary", "off"]),
    help="What a response carries when its request has no `traits` field.  [default: tokens; with --traits-allow "
    "summary: summary]",
)
@click.option(
    "--traits-allow",
    "allow",
    type=click.Choice(["summary", "tokens", "prompt"]),
    default="prompt",
    show_default=True,
    help="The most that a request may ask for: the summary, the projections of the answer's tokens too, or those of "
    "the prompt's tokens too. A request for more is a 400.",
)
@click.option(
    "--traits-max-prompt",
    "max_prompt",
    type=click.IntRange(1),
    metavar="TOKENS",
    help="Longest prompt whose projections a request may ask for; a longer one is a 400.  [default: no limit: the "
    "model's own work on such a prompt takes longer]",
)
@click.option(
    "--drain-seconds",
    type=click.FloatRange(0),
    default=20,
    show_default=True,
    help="How long running answers may take to finish after SIGTERM or Ctrl-C. Then the server aborts them. New "
    "requests get status 503 meanwhile.",
)
@click.option(
    "--ui",
    "with_ui",
    is_flag=True,
    help="Start the inspector too (`traitwatch ui`), as long as the server runs. Where there is no admin key, "
    "the server makes one for it.",
)
@click.option(
    "--ui-port",
    type=click.IntRange(1, 65535),
    default=7860,
    show_default=True,
    help="Port of the inspector, on 127.0.0.1.",
)
@click.option(
    "--vllm-help",
    metavar="GROUP",
    help="Show vLLM's own serve options and exit; GROUP is `all`, a group such as ModelConfig, or a word to look for.",
    is_eager=True,
    expose_value=False,
    callback=_show_vllm_help,
)
@click.argument("vllm_arguments", nargs=-1, type=click.UNPROCESSED, metavar="MODEL [VLLM OPTIONS]...")
def serve(
    *,
    vllm_config: dict[str, Any] | None,
    directories: tuple[Path, ...],
    layers: tuple[str, ...],
    default: Any,
    allow: Any,
    max_prompt: int | None,
    admin: bool,
    admin_key: str | None,
    admin_key_file: Path | None,
    spare_layers: tuple[int, ...],
    spike_rate: float,
    thresholds: tuple[str, ...],
    events: str | None,
    events_text: bool,
    events_max_mb: float,
    events_keep: int,
    drain_seconds: float,
    with_ui: bool,
    ui_port: int,
    vllm_arguments: tuple[str, ...],
) -> None:
    """Serve MODEL with vLLM's OpenAI server, and attach the projection of every generated token.

    vLLM gets all other options, e.g.

    \b
        traitwatch serve meta-llama/Llama-3.1-8B-Instruct --traits vectors/Llama-3.1-8B-Instruct --port 8000
        curl localhost:8000/v1/traits
    """
    from traitwatch.vectors import DEFAULT_LAYER
    from traitwatch_server.launch.multiprocess_metrics import forget_ended_processes
    from traitwatch_server.recording.spike_log import STDOUT, checked_file
    from traitwatch_server.settings import Settings, SpikeLogSettings
    from traitwatch_server.traits import load_served_traits

    if events is None and events_text:
        raise ConfigError("--traits-events-text adds texts to the log of --traits-events; give --traits-events too.")
    if allow == "summary" and default == "tokens":
        raise ConfigError(
            "--traits-default tokens gives more than --traits-allow summary; give --traits-default summary or off."
        )
    admin_key = read_admin_key(admin_key, admin_key_file)
    if admin and admin_key is None:
        raise ConfigError(
            "--traits-admin needs an admin key, so that only an operator can change what is monitored; set "
            "TRAITWATCH_ADMIN_KEY, or give --traits-admin-key-file."
        )
    if with_ui and admin_key is None:
        admin_key = secrets.token_hex(32)
    overall, layer_of = parse_layers(layers)
    settings = Settings(
        directories=tuple(d.resolve() for d in directories),
        layer=DEFAULT_LAYER if overall is None else overall,
        layer_of=layer_of,
        default=default or ("summary" if allow == "summary" else "tokens"),
        allow=allow,
        max_prompt=max_prompt,
        admin=admin,
        admin_key=admin_key,
        spare_layers=spare_layers,
        spike_rate=spike_rate,
        threshold_of=parse_thresholds(thresholds),
        spike_log=None
        if events is None
        else SpikeLogSettings(
            events if events == STDOUT else str(Path(events).resolve()),
            text=events_text,
            max_bytes=round(events_max_mb * 2**20),
            keep=events_keep,
        ),
        drain_seconds=drain_seconds,
    )
    traits = load_served_traits(settings)
    if events is not None and events != STDOUT:
        checked_file(events)
    _allow_plugin()
    forget_ended_processes()
    # Before any other import of vLLM: another version may lack what we import.
    check_vllm()

    from traitwatch_server.launch.inspector import inspector_beside
    from traitwatch_server.launch.vllm_serve import check_keys, parse_vllm_arguments, run

    args = parse_vllm_arguments(list(vllm_arguments), vllm_config)
    check_keys(args, settings)
    with inspector_beside(args, ui_port, admin_key) if with_ui else nullcontext():
        run(args, settings, traits)


def parse_layers(values: tuple[str, ...]) -> tuple["Layer | None", dict[str, "Layer"]]:
    """Split the values of `--traits-layer` into the layer of all traits and the layers of single traits."""
    overall: Layer | None = None
    layer_of: dict[str, Layer] = {}
    for value in values:
        name, _, which = value.rpartition("=")
        if which != "best" and not which.isdecimal():
            raise ConfigError(f"--traits-layer {value}: give a layer index or `best`, as in 20 or paternalism=best.")
        layer: Layer = "best" if which == "best" else int(which)
        if name:
            layer_of[name] = layer
        else:
            overall = layer
    return overall, layer_of


def parse_thresholds(values: tuple[str, ...]) -> dict[str, float]:
    """Return the values of `--traits-threshold`, by trait."""
    threshold_of = {}
    for value in values:
        name, _, z = value.rpartition("=")
        try:
            threshold_of[name] = float(z)
        except ValueError:
            threshold_of[name] = math.nan
        if not name or not math.isfinite(threshold_of[name]):
            raise ConfigError(f"--traits-threshold {value}: give a trait and a z, as in paternalism=3.5.")
    return threshold_of


def _allow_plugin() -> None:
    """Add our plugin to vLLM's allowlist. Without a list vLLM loads all its plugins, so a new list names them all."""
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is None:
        names = {entry.name for group in _vllm_plugin_groups() for entry in entry_points(group=group)}
    else:
        names = set(filter(None, allowed.split(",")))
    os.environ["VLLM_PLUGINS"] = ",".join(sorted(names | {_PLUGIN}))


def _vllm_plugin_groups() -> list[str]:
    return sorted(
        group for group in entry_points().groups if group.startswith("vllm.") and group != "vllm.endpoint_plugins"
    )
