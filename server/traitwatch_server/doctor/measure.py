"""Runs the servers of the doctor's checks in turn, and measures them.

One is a real Traitwatch server with random probe vectors, so that no trait is needed. The other is plain vLLM with the
same options. The two are never up together: two servers of a real model do not fit on a GPU, and a server that is alone
has the memory, the KV cache and the device that it would have in production. The two alternate, so that a slow change
of the machine's speed falls on both.
"""

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console

from traitwatch.cache import cache_directory
from traitwatch.errors import ProcessError
from traitwatch.processes import free_port, running, traitwatch_command
from traitwatch.vectors import RESPONSE_AVG, Float32Array, save_tensor
from traitwatch.vllm_private.server_process import SERVER_MODULE
from traitwatch_server.doctor.chats import (
    ABORTED_TOKENS,
    SERVED_NAME,
    ScoredText,
    crowded_chats,
    open_calls,
    rescored_alone,
    solo_chats,
    tokens_per_second,
)
from traitwatch_server.doctor.environment import on_cpu
from traitwatch_server.errors import ConfigError, ServerError
from traitwatch_server.launch.vllm_serve import model_config, parse_vllm_arguments

_OURS = ("--host", "--port", "--served-model-name", "--api-key", "--traits")
_START_TIMEOUT = 1800.0
_PARITY_CHATS = 6
_PARITY_TOKENS = 64
# No prompt is longer, in tokens, with any tokenizer and any chat template.
_PROMPT_ROOM = 200
# Long enough for a few seconds of decoding.
_LOAD_TOKENS = {"cpu": 96, "gpu": 512}


@dataclass(frozen=True)
class Plan:
    """The servers to run and the loads to time.

    Attributes:
        model: the model, as on the command line.
        name: the model's name in the report.
        options: vLLM's options.
        config: vLLM's `ModelConfig`.
        probes: layer to the name of its probe, ascending.
        vectors: directory of the probes' vectors.
        rounds: how often each server is started.
        loads: how many loads are timed on each start.
        load_tokens: tokens of each stream of a load.
        logs: directory of the servers' logs.
    """

    model: str
    name: str
    options: Sequence[str]
    config: Any
    probes: Mapping[int, str]
    vectors: Path
    rounds: int
    loads: int
    load_tokens: int
    logs: Path


@dataclass
class Measurements:
    """The measurements so far.

    Attributes:
        chats: for parity, scored chats.
        crowd: for isolation, scored chats that were sent at the same time.
        alone: for isolation, the projections of each text of `crowd` when the server scored it alone.
        left_open: for isolation, calls whose rows the server held after all chats had ended.
        scored: for overhead, tokens per second of each load on the scoring server.
        plain: for overhead, the same on plain vLLM.
        failure: the error that ended the measurements early; empty without one.
    """

    chats: list[ScoredText] = field(default_factory=list)
    crowd: list[ScoredText] = field(default_factory=list)
    alone: list[Float32Array] = field(default_factory=list)
    left_open: float = 0.0
    scored: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    failure: str = ""


def make_plan(arguments: Sequence[str], gpu: bool | None, rounds: int, loads: int, vectors: Path) -> Plan:
    """Check the command line and write the probes.

    Raises:
        ConfigError: the checks cannot be run with these arguments.
    """
    if not arguments or arguments[0].startswith("-"):
        raise ConfigError("give the MODEL first, then vLLM's options.")
    for argument in arguments[1:]:
        if argument.startswith(_OURS):
            raise ConfigError(f"{argument.partition('=')[0]}: the doctor sets that itself; leave it out.")
    if gpu and on_cpu():
        raise ConfigError("--gpu: the vLLM that is installed is the CPU build.")
    if gpu is False and not on_cpu():
        raise ConfigError("--cpu: the vLLM that is installed is not the CPU build.")
    model, *options = arguments
    config = model_config(parse_vllm_arguments([model, *options]))
    load_tokens = _LOAD_TOKENS["cpu" if on_cpu() else "gpu"]
    needed = max(load_tokens, ABORTED_TOKENS) + _PROMPT_ROOM
    if config.max_model_len < needed:
        raise ConfigError(f"--max-model-len {config.max_model_len}: the checks need {needed}.")
    layers = config.get_total_num_hidden_layers()
    probes = {layer: f"probe{layer}" for layer in sorted({1, max(1, layers // 3), max(1, 2 * layers // 3), layers})}
    random = np.random.default_rng(0)
    for name in probes.values():
        vector = random.standard_normal((layers + 1, config.get_hidden_size())).astype(np.float32)
        save_tensor(vector, vectors / f"{name}_{RESPONSE_AVG}.pt")
    logs = cache_directory("doctor", time.strftime("%Y%m%d-%H%M%S"))
    name = Path(model).resolve().name if Path(model).exists() else model
    return Plan(model, name, options, config, probes, vectors, rounds, loads, load_tokens, logs)


def measure(plan: Plan, console: Console) -> Measurements:
    """Run the servers in turn and measure them; an error ends the measurements and becomes one of them."""
    measured = Measurements()
    try:
        for number in range(plan.rounds):
            with _server(plan, console, scored=True, number=number) as url:
                if number == 0:
                    _ask(plan, console, url, measured)
                measured.scored += _time(plan, console, url)
            with _server(plan, console, scored=False, number=number) as url:
                measured.plain += _time(plan, console, url)
    except (ServerError, ProcessError, httpx.HTTPError) as error:
        measured.failure = f"{type(error).__name__}: {error}"
        console.print(measured.failure, style="red", markup=False)
    return measured


@contextmanager
def _server(plan: Plan, console: Console, *, scored: bool, number: int) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    what = "Traitwatch" if scored else "plain vLLM"
    plain_vllm = [sys.executable, "-P", "-m", SERVER_MODULE, "--model"]
    command = [*(traitwatch_command("serve") if scored else plain_vllm), plan.model, *plan.options]
    if scored:
        command += ["--traits", str(plan.vectors), "--traits-default", "tokens"]
        command += [text for layer, name in plan.probes.items() for text in ("--traits-layer", f"{name}={layer}")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", SERVED_NAME]
    log = log_of(plan, scored=scored, number=number)
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", **os.environ}
    environment |= {"VLLM_CONFIGURE_LOGGING": "1", "VLLM_LOGGING_LEVEL": "INFO"}
    environment.pop("VLLM_API_KEY", None)
    started = time.monotonic()
    with console.status("") as status:

        def waiting(seconds: float) -> None:
            status.update(f"starting {what} ({seconds:.0f} s)")

        server = running(
            what,
            command,
            log,
            ready=f"{url}/health",
            timeout=_START_TIMEOUT,
            environment=environment,
            waiting=waiting,
            excerpt=lambda log: f"Its last errors: {last_errors(log)}",
        )
        with server:
            console.print(f"{what} answers after {time.monotonic() - started:.0f} s.")
            status.update(f"asking {what}")
            yield url
            status.update(f"ending {what}")


def log_of(plan: Plan, *, scored: bool, number: int) -> Path:
    """Return the log of one of the servers."""
    return plan.logs / f"{'traitwatch' if scored else 'vllm'}-{number + 1}.log"


def last_errors(log: Path, most: int = 4) -> str:
    """Return the last lines of a server's log that look like the message of an error."""
    lines = [line.strip() for line in log.read_text("utf-8", errors="replace").splitlines()]
    errors = [line for line in lines if "Error" in line and "File " not in line]
    return " / ".join(dict.fromkeys(line[:300] for line in errors[-most:])) or "none"


def _ask(plan: Plan, console: Console, url: str, measured: Measurements) -> None:
    """Make the measurements for parity and isolation."""
    probes = list(plan.probes.values())
    console.print(f"Asking for {_PARITY_CHATS} chats to compare with transformers ...")
    measured.chats = asyncio.run(solo_chats(url, probes, _PARITY_CHATS, _PARITY_TOKENS))
    console.print("Asking for many chats at once, with clients that hang up ...")
    crowd = asyncio.run(crowded_chats(url, probes))
    measured.left_open = asyncio.run(open_calls(url))
    console.print("Asking for each of them again, alone ...")
    measured.alone = asyncio.run(rescored_alone(url, probes, crowd))
    measured.crowd = crowd


def _time(plan: Plan, console: Console, url: str) -> list[float]:
    """Return the tokens per second of each load, after a first load that is not counted."""
    speeds = [asyncio.run(tokens_per_second(url, plan.load_tokens)) for _ in range(plan.loads + 1)]
    console.print("tokens per second: " + ", ".join(f"{speed:.0f}" for speed in speeds[1:]))
    return speeds[1:]
