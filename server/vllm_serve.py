"""Hands a parsed command line to vLLM's own `serve`, after making sure that vectors and model go together."""

from argparse import Namespace
from collections.abc import Sequence
from importlib.metadata import entry_points

import vllm.envs as envs
from vllm.config import ModelConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
from vllm.logger import configure_logging_from_args
from vllm.utils.argparse_utils import FlexibleArgumentParser

from server.config import CONFIG_KEY, ServedTrait, Settings, check_fits, tap_config
from server.errors import ConfigError
from server.plugin import SETTINGS_ATTRIBUTE, TraitwatchPlugin

WORKER_CLASS = "server.worker.TraitWorker"


def parse_vllm_arguments(arguments: list[str]) -> Namespace:
    """Parse MODEL and options with vLLM's own serve parser; exits with its message on a bad one."""
    parser = FlexibleArgumentParser(prog="traitwatch")
    subparsers = parser.add_subparsers(required=True, dest="subparser")
    ServeSubcommand().subparser_init(subparsers)
    args: Namespace = parser.parse_args(["serve", *arguments])
    ServeSubcommand().validate(args)
    return args


def run(args: Namespace, settings: Settings, traits: Sequence[ServedTrait]) -> None:
    """Serve until told to stop.

    Raises:
        ConfigError: the vectors do not fit the model, or options of vLLM's stand in the way.
    """
    _check_plugin()
    _refuse_unsupported(args)
    cli_env_setup()
    configure_logging_from_args(args)
    args.model = args.model_tag or args.model
    config = _model_config(args)
    check_fits(traits, args.model, config.get_total_num_hidden_layers(), config.get_hidden_size())
    args.worker_cls = WORKER_CLASS
    args.additional_config = {**(args.additional_config or {}), CONFIG_KEY: tap_config(traits)}
    setattr(args, SETTINGS_ATTRIBUTE, settings)
    ServeSubcommand.cmd(args)


def _refuse_unsupported(args: Namespace) -> None:
    """Refuse what would serve unscored, or with rows that the tap cannot place."""
    if args.worker_cls != "auto":
        raise ConfigError(f"--worker-cls {args.worker_cls}: Traitwatch brings its own worker class; leave it out.")
    if args.headless or args.grpc or envs.VLLM_USE_RUST_FRONTEND:
        raise ConfigError(
            "--headless, --grpc and VLLM_USE_RUST_FRONTEND have no Python API process to attach scores in; "
            "leave them out."
        )
    if args.speculative_config is not None:
        raise ConfigError("--speculative-config: rows of rejected tokens are not told apart yet; leave it out.")
    if args.enable_dbo or args.prefill_context_parallel_size > 1:
        raise ConfigError(
            "--enable-dbo and --prefill-context-parallel-size split a pass into several, which the tap does not "
            "follow; leave them out."
        )
    if envs.VLLM_DISABLE_REQUEST_ID_RANDOMIZATION:
        raise ConfigError(
            "VLLM_DISABLE_REQUEST_ID_RANDOMIZATION changes the request ids that tell a response's choices apart; "
            "unset it."
        )


def _model_config(args: Namespace) -> ModelConfig:
    """Read the model's configuration as the engine will, which downloads it where it is not here yet."""
    try:
        return AsyncEngineArgs.from_cli_args(args).create_model_config()
    except (ValueError, OSError) as error:
        reason = str(error).strip().replace("\n", " ")
        raise ConfigError(f"vLLM cannot use the model {args.model!r}: {reason}") from error


def _check_plugin() -> None:
    """Make sure that vLLM will find our plugin: it passes over one that does not load, and would serve unscored."""
    found = [entry for entry in entry_points(group="vllm.endpoint_plugins") if entry.name == TraitwatchPlugin.name]
    if not found or found[0].load() is not TraitwatchPlugin:
        raise ConfigError("vLLM cannot find Traitwatch's plugin; install the package again (pip install -e .).")
