"""vLLM's `serve` command: its parser, the model's configuration that its options give, and its run.

vLLM promises the options of `vllm serve`, but none of the Python names behind them.
"""

from argparse import Namespace

import vllm.envs as envs
from vllm.config import ModelConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
from vllm.logger import configure_logging_from_args
from vllm.utils.argparse_utils import FlexibleArgumentParser

from traitwatch.vllm_private.startup import launching


def parse_serve_arguments(arguments: list[str], prog: str) -> Namespace:
    """Parse MODEL and options with the parser of `vllm serve`; a wrong argument ends the process with a message.

    Args:
        arguments: the arguments after `serve`.
        prog: the name of the program in the parser's messages.
    """
    parser = FlexibleArgumentParser(prog=prog)
    subparsers = parser.add_subparsers(required=True, dest="subparser")
    ServeSubcommand().subparser_init(subparsers)
    args: Namespace = parser.parse_args(["serve", *arguments])
    ServeSubcommand().validate(args)
    args.model = args.model_tag or args.model
    return args


def prepare_process(args: Namespace) -> None:
    """Set up the environment and the loggers of this process as vLLM's own command does before it serves."""
    cli_env_setup()
    configure_logging_from_args(args)


def create_model_config(args: Namespace) -> ModelConfig:
    """Read the model's configuration as the engine will; download it where it is not here yet.

    Raises:
        ValueError: vLLM cannot use the model.
        OSError: the model cannot be read.
    """
    return AsyncEngineArgs.from_cli_args(args).create_model_config()


def serves_without_python() -> bool:
    """Return whether the environment asks for vLLM's front end in Rust."""
    return bool(envs.VLLM_USE_RUST_FRONTEND)


def run_serve_command(args: Namespace) -> None:
    """Serve as `vllm serve` does, until the server ends.

    Raises:
        SystemExit: SIGTERM or Ctrl-C came before the server was up; status 0.
    """
    with launching():
        ServeSubcommand.cmd(args)
