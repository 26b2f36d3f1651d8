"""The servers that are compared: how each starts, and how to check that it does the measured work."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tests.benchmarks.serving.plan import CONTROL, GOAL_TRAITS, HIDDEN_STATES, PLAIN, Mode, traits_side
from tests.support.paths import ROOT
from tests.support.serving import MODEL_NAME, Server, plain_vllm, traitwatch
from traitwatch import vectors
from traitwatch.vectors import DEFAULT_LAYER, RESPONSE_AVG, save_tensor

SHIPPED = vectors.SHIPPED / "SmolLM2-135M-Instruct"
_SHAPE = (31, 576)
_PACKAGE = "tests.benchmarks.serving"


class SideError(Exception):
    """A server does not do the work that is measured."""


@dataclass(frozen=True)
class Side:
    """One kind of server.

    Attributes:
        name: the name in the tables.
        command: the command line, without the options that `serving` adds.
        check: raises `SideError` unless a running server of this kind does its work.
    """

    name: str
    command: list[str]
    check: Callable[[Server], None]


def flags(mode: Mode) -> list[str]:
    """Return the vLLM options of every side of a mode."""
    return ["--enforce-eager"] if mode == "eager" else []


def make_side(name: str, model: Path, mode: Mode, directory: Path) -> Side:
    """Return the side called `name`. Its files go to `directory`."""
    options = flags(mode)
    if name in (PLAIN, CONTROL):
        return Side(name, plain_vllm(model, *options), lambda server: _check_traits(server, None))
    if name == HIDDEN_STATES:
        return Side(name, _hidden_states(model, directory / "hidden.sock", options), _check_hidden_states)
    count = int(name.split()[0])
    if count == 0:
        # The tap has as many vectors as the goals are stated for, but no request asks for a score.
        vectors, default, expected = SHIPPED, "off", None
    else:
        vectors, default, expected = vectors_of(count, directory), "tokens", count
    command = traitwatch("serve", model, "--traits", vectors, "--traits-default", default, *options)
    return Side(traits_side(count), command, lambda server: _check_traits(server, expected))


def vectors_of(count: int, directory: Path) -> Path:
    """Return a directory with `count` vectors of the embedded model.

    If there are so many shipped vectors, return those. Otherwise make random vectors of unit scale. These are
    uncalibrated: their projections have no z and no spikes.
    """
    if count == GOAL_TRAITS:
        return SHIPPED
    place = directory / f"{count}-traits"
    place.mkdir(exist_ok=True)
    if count == 1:
        for file in (f"paternalism_{RESPONSE_AVG}.pt", "paternalism.json"):
            shutil.copy(SHIPPED / file, place)
        return place
    random = np.random.default_rng(count)
    for number in range(count):
        vector = random.standard_normal(_SHAPE).astype(np.float32) / np.sqrt(np.float32(_SHAPE[1]))
        save_tensor(vector, place / f"random{number:02}_{RESPONSE_AVG}.pt")
    return place


def answers(server: Server) -> tuple[float, float]:
    """Return the number of completely scored answers, and of incomplete answers, of a server that scores."""
    lines = httpx.get(f"{server.url}/metrics", timeout=30).text.splitlines()

    def total(metric: str) -> float:
        return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{metric} ", f"{metric}{{")))

    return total("traitwatch_responses_scored_total"), total("traitwatch_responses_incomplete_total")


def _hidden_states(model: Path, socket: Path, options: list[str]) -> list[str]:
    """Return the command of a server whose worker sends hidden states to its API process, as other plugins do."""
    config = {"hidden_states": {"layer": DEFAULT_LAYER, "endpoint": f"ipc://{socket}"}}
    command = plain_vllm(
        model,
        *("--worker-cls", f"{_PACKAGE}.hidden_worker.HiddenStatesWorker"),
        *("--middleware", f"{_PACKAGE}.hidden_reader.HiddenStatesReader"),
        *("--additional-config", json.dumps(config)),
        *options,
    )
    # The middleware does not get the server's options. `env` becomes the server and keeps its pid.
    environment = [f"BENCH_ENDPOINT=ipc://{socket}", f"BENCH_VECTORS={SHIPPED}", f"PYTHONPATH={ROOT}"]
    assert command[0] == sys.executable
    return ["env", *environment, *command]


def _check_traits(server: Server, expected: int | None) -> None:
    """Stream a chat. Its last event must have `expected` fully scored traits, or no traits if `expected` is None."""
    last: dict[str, Any] = {}
    for event in _stream(server):
        for choice in event["choices"]:
            last = choice
    found = last.get("traits")
    if expected is None:
        if found is not None:
            raise SideError(f"{server.url} scores its answers, and should not.")
    elif last.get("traits_complete") is not True or found is None or len(found) != expected:
        raise SideError(f"{server.url} should score {expected} traits in full, but its last event was {last}.")


def _check_hidden_states(server: Server) -> None:
    def rows() -> int:
        return int(httpx.get(f"{server.url}/bench/rows", timeout=30).json()["rows"])

    before, tokens = rows(), len(_stream(server))
    if rows() < before + tokens // 2:
        raise SideError(f"{server.url} should ship hidden states, but only {rows() - before} rows of {tokens} came.")


def _stream(server: Server) -> list[dict[str, Any]]:
    body = {
        "model": MODEL_NAME,
        "messages": [{"role": "user", "content": "Tell me a story."}],
        "max_tokens": 16,
        "stream": True,
        "ignore_eos": True,
    }
    text = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120).raise_for_status().text
    data = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: {")]
    return [json.loads(line) for line in data]
