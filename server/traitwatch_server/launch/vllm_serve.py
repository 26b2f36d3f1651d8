"""Hands a parsed command line to vLLM's own `serve`, after checks of the options, the vectors and the model."""

import logging
import math
import os
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml
from vllm.config import ModelConfig

from traitwatch.processes import check_port, keep_to_installed_modules
from traitwatch.vllm_private.api_process import api_keys
from traitwatch.vllm_private.command_line import (
    create_model_config,
    parse_serve_arguments,
    prepare_process,
    run_serve_command,
    serves_without_python,
)
from traitwatch_server.app.draining import MARGIN
from traitwatch_server.app.handover import Launch
from traitwatch_server.app.plugin import TraitwatchPlugin
from traitwatch_server.errors import ConfigError, EngineDiedError
from traitwatch_server.launch.admin_key import check_is_no_api_key
from traitwatch_server.process import log_with_vllm
from traitwatch_server.settings import Settings
from traitwatch_server.traits import ServedTrait, check_fits, tap_config
from traitwatch_server.wire import CONFIG_KEY

logger = logging.getLogger(__name__)

WORKER_CLASS = "traitwatch_server.worker.worker.TraitWorker"
_SOCKETS = "traitwatch-"
# The most characters that Linux allows in the path of a socket.
_LONGEST_SOCKET_PATH = 107


def parse_vllm_arguments(arguments: list[str], config: Mapping[str, Any] | None = None) -> Namespace:
    """Parse MODEL and options with vLLM's own serve parser; a wrong argument ends the process with a message.

    Args:
        arguments: the arguments of the command line.
        config: options of a file, over which those of the command line win; None without a file.

    Raises:
        ConfigError: vLLM does not take the options of the file.
    """
    keep_to_installed_modules()
    if config is None:
        return parse_serve_arguments(arguments, prog="traitwatch")
    # vLLM takes such options from a file alone. Only this user can read the directory.
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "config.yaml")
        file.write_text(yaml.safe_dump(dict(config), allow_unicode=True), encoding="utf-8")
        try:
            return parse_serve_arguments([*arguments, "--config", str(file)], prog="traitwatch")
        except ValueError as error:
            raise ConfigError(f"--config: vLLM does not take it: {error}") from error


def check_keys(args: Namespace, settings: Settings) -> None:
    """Refuse keys that guard nothing.

    Raises:
        ConfigError: an API key is empty, or is the admin key.
    """
    if args.api_key and not all(args.api_key):
        raise ConfigError(
            "--api-key is empty, and vLLM would serve everybody; give a key, or leave the option out to serve without."
        )
    check_is_no_api_key(settings.admin_key, api_keys(args))


def run(args: Namespace, settings: Settings, traits: Sequence[ServedTrait]) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        ConfigError: the vectors do not fit the model, or an option of vLLM does not work with Traitwatch.
        EngineDiedError: an engine process died.
    """
    _check_plugin()
    _refuse_unsupported(args, settings)
    if not args.uds:
        # Two servers with several API processes each would share a port, and clients would meet either of them.
        check_port(args.host or "", args.port)
    prepare_process(args)
    log_with_vllm()
    if args.disable_log_stats:
        logger.warning(
            "--disable-log-stats: vLLM counts no tokens then, which the alerts TraitwatchSilent and "
            "TraitwatchServerSilent need: they cannot fire."
        )
    config = model_config(args)
    if config.runner_type != "generate":
        raise ConfigError(
            f"{args.model} is served as a model for {config.runner_type}, which generates no tokens to score; serve it "
            "with `vllm serve`, or give --runner generate."
        )
    num_layers = config.get_total_num_hidden_layers()
    check_fits(traits, args.model, num_layers, config.get_hidden_size())
    beyond = [layer for layer in settings.spare_layers if layer > num_layers]
    if beyond:
        raise ConfigError(f"--traits-tap {beyond[0]}: {args.model} has layers 1 to {num_layers}.")
    args.worker_cls = WORKER_CLASS
    # The time that vLLM gives a process to end. With 0 vLLM would kill its engine at once.
    args.shutdown_timeout = math.ceil(settings.drain_seconds) + MARGIN
    args.additional_config = {**(args.additional_config or {}), CONFIG_KEY: tap_config(traits, settings)}
    with tempfile.TemporaryDirectory(prefix=_SOCKETS, dir=_directory_of_sockets()) as sockets:
        launch = Launch(settings, Path(sockets))
        launch.leave_in(args)
        # vLLM does not remove the sockets that it makes. This directory is removed at the end of the server.
        os.environ.setdefault("VLLM_RPC_BASE_PATH", sockets)
        run_serve_command(args)
    if launch.engine_died:
        raise EngineDiedError("an engine process ended by itself, and ended the server; the log above says why.")


def _directory_of_sockets() -> str:
    """Return the parent of the directory of sockets: that of temporary files, unless the paths would be too long."""
    longest = f"{tempfile.gettempdir()}/{_SOCKETS}12345678/{uuid4()}"
    return tempfile.gettempdir() if len(longest) <= _LONGEST_SOCKET_PATH else "/tmp"


def _refuse_unsupported(args: Namespace, settings: Settings) -> None:
    """Refuse options under which tokens would have no scores, or the tap could not place their rows."""
    if args.worker_cls != "auto":
        raise ConfigError(f"--worker-cls {args.worker_cls}: Traitwatch brings its own worker class; leave it out.")
    if args.headless or args.grpc or serves_without_python():
        raise ConfigError(
            "--headless, --grpc and VLLM_USE_RUST_FRONTEND have no Python API process to attach scores in; "
            "leave them out."
        )
    if args.shutdown_timeout:
        raise ConfigError(
            "--shutdown-timeout waits in the engine alone; leave it out, and give --drain-seconds, which waits for the "
            "answers with their scores."
        )
    if args.enable_dbo or args.ubatch_size > 1 or args.prefill_context_parallel_size > 1:
        raise ConfigError(
            "--enable-dbo, --ubatch-size and --prefill-context-parallel-size split a pass into several, which the tap "
            "does not follow; leave them out."
        )
    if args.kv_sharing_fast_prefill:
        raise ConfigError(
            "--kv-sharing-fast-prefill runs some layers on some of a prompt's tokens, and the tap would credit their "
            "projections to others; leave it out."
        )
    if (args.speculative_config or {}).get("enable_adaptive_verification"):
        raise ConfigError(
            "--speculative-config: enable_adaptive_verification lets the device decide which rows belong to which "
            "request, and the tap cannot follow; set it to false."
        )
    if args.enable_elastic_ep:
        raise ConfigError(
            "--enable-elastic-ep starts engines while serving, and their tokens would have no scores; leave it out."
        )
    if args.data_parallel_multi_port_external_lb:
        raise ConfigError(
            "--data-parallel-multi-port-external-lb starts servers that this command does not see: where one of them "
            "loses its engine, the exit status would be 0. Run a `traitwatch serve` for each rank, with "
            "--data-parallel-rank and a port of its own."
        )
    # Without --api-server-count vLLM starts an API process for each data-parallel engine.
    api_processes = args.api_server_count or args.data_parallel_size or 1
    if settings.admin and api_processes > 1:
        raise ConfigError(
            f"--traits-admin with {api_processes} API processes: a trait that one of them loads would be unknown to "
            "the others; leave it out, or give --api-server-count 1."
        )


def model_config(args: Namespace) -> ModelConfig:
    """Read the model's configuration as the engine will; download it where it is not here yet.

    Raises:
        ConfigError: vLLM cannot use the model.
    """
    try:
        return create_model_config(args)
    except Exception as error:
        # The files of a model may hold anything, and transformers reads them without many checks.
        kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
        reason = kind + str(error).strip().replace("\n", " ")
        raise ConfigError(f"vLLM cannot use the model {args.model!r}: {reason}") from error


def _check_plugin() -> None:
    """Check that vLLM will find our plugin. vLLM ignores a plugin that does not load, and would serve unscored."""
    found = [entry for entry in entry_points(group="vllm.endpoint_plugins") if entry.name == TraitwatchPlugin.name]
    if not found or found[0].load() is not TraitwatchPlugin:
        raise ConfigError("vLLM cannot find Traitwatch's plugin; install the package again (pip install -e .).")
