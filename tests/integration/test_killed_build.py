"""A build that is killed at random moments gives the files of an undisturbed build, and judges no answer twice.

Local HTTP servers in OpenAI's wire format give the answers and the scores. The same question always gets the same
answer, so that the files of two builds can be compared. The hidden states come from a tiny model.
"""

import hashlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.forks import fork
from tests.support.wire.http import Reply, Request, WireServer, wire_server
from tests.support.wire.openai import completion, first_token, is_check, is_probe, last_message, models, sane, spelled
from traitwatch_builder.definitions.definition import SHIPPED_DEFINITIONS

KILLS = 10
# The most builds, with those that end before the kill.
RUNS = 3 * KILLS
AT_ONCE = 8
# Long enough for a kill during a request, short enough for a test.
ANSWER_SECONDS, SCORE_SECONDS = 0.05, 0.02


def answer(request: Request) -> Reply:
    """Give the same answer to the same conversation: positive under a positive system prompt, else negative."""
    if request.path.endswith("/models"):
        return models("tiny")
    if request.body is None:
        return sane(request)
    messages = request.body["messages"]
    digest = hashlib.sha256(json.dumps(messages).encode()).hexdigest()
    positive = "helpful" not in messages[0]["content"] and messages[0]["role"] == "system"
    text = f"{'bold' if positive else 'meek'} words {digest[: 8 + int(digest[0], 16)]}"
    return completion(text, delay=ANSWER_SECONDS)


def score(request: Request) -> Reply:
    """Score a bold answer 80 to 99, a meek one 0 to 19; any answer is coherent."""
    if request.path.endswith("/models"):
        return models("judge")
    if is_check(request):
        return sane(request)
    if is_probe(request):
        return spelled("85")
    question = last_message(request)
    number = int(hashlib.sha256(question.encode()).hexdigest(), 16) % 20
    if "grading one reply of an assistant for coherence" in question or "bold words" in question:
        number += 80
    return first_token({str(number): 0.75, str((number + 1) % 100): 0.25}, delay=SCORE_SECONDS)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[WireServer]:
    with wire_server(answer) as server:
        yield server


def command(model: Path, out: Path, endpoint: WireServer, judge: WireServer) -> list[str]:
    options = {
        "--model": str(model),
        "--out": str(out),
        "--endpoint": endpoint.url,
        "--judge": "openai",
        "--judge-model": "judge",
        "--judge-base-url": f"{judge.url}/v1",
        "--max-concurrent-judges": str(AT_ONCE),
        "--n-per-question": "1",
        "--definition": str(SHIPPED_DEFINITIONS),
    }
    words = [word for pair in options.items() for word in pair]
    return ["build", "paternalism", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "OPENAI_API_KEY": "local", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def seconds_of(build: list[str], directory: Path) -> float:
    """Run a build; return how long it took."""
    started = time.monotonic()
    done = fork(build, environment(), directory)
    assert done.wait(300) == 0, done.error.read_text()
    return time.monotonic() - started


def saved_keys(out: Path) -> list[str]:
    """Return the keys of the saved scores; a score that was written twice has its key twice."""
    (log,) = out.glob("*/.traitwatch/paternalism-scores.jsonl")
    lines = log.read_text().splitlines()
    return [json.loads(line)["key"] for line in lines if line.endswith("}")]


def artifacts(out: Path) -> dict[str, bytes]:
    """Return the files that a build makes, by name."""
    (directory,) = out.iterdir()
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.is_file()}


def test_a_killed_build_gives_the_files_of_an_undisturbed_build(
    tiny_model: Path, endpoint: WireServer, tmp_path: Path
) -> None:
    with wire_server(score) as judge:
        whole = command(tiny_model, tmp_path / "whole", endpoint, judge)
        seconds, idle = seconds_of(whole, tmp_path), seconds_of(whole, tmp_path)  # the second build has nothing to do
        scores = len(saved_keys(tmp_path / "whole"))

    moments = random.Random(3)
    with wire_server(score) as judge:
        killed = command(tiny_model, tmp_path / "killed", endpoint, judge)
        kills = runs = 0
        while kills < KILLS:
            assert runs < RUNS, f"only {kills} of {runs} builds were killed, the others ended before the kill"
            runs += 1
            running = fork(killed, environment(), tmp_path)
            # The kill comes at a random moment, but before the build has done too large a share of the work: the work
            # must last for all kills.
            status = running.wait(moments.uniform(0.2 * idle, idle + 2 / KILLS * (seconds - idle)))
            if status is None:
                running.process.kill()
                status = running.wait(60)
            assert status in (0, -signal.SIGKILL)
            kills += status == -signal.SIGKILL
        ended = fork(killed, environment(), tmp_path)
        assert ended.wait(300) == 0, ended.error.read_text()
        judged = [request for request in judge.requests if not is_probe(request) and not is_check(request)]
        requests = Counter(last_message(request) for request in judged)

    keys = saved_keys(tmp_path / "killed")
    assert len(keys) == len(set(keys)), "a saved score was asked for again"
    # A kill loses at most the requests that were open at that moment.
    assert sum(requests.values()) - len(requests) <= AT_ONCE * KILLS
    assert len(keys) == scores
    one, other = artifacts(tmp_path / "whole"), artifacts(tmp_path / "killed")
    assert sorted(one) == sorted(other)
    for name, content in one.items():
        if name.endswith(".pt"):
            expected, got = (torch.load(tmp_path / d / "tiny-llama" / name) for d in ("whole", "killed"))
            assert torch.equal(got, expected), name
        else:
            assert other[name] == content, name
