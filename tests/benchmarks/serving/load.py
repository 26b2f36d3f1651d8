"""Makes load with `vllm bench serve` in a process of its own, and reads the result file."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from tests.support.paths import ROOT
from tests.support.serving import MODEL_NAME, measured_environment

PERCENTILES = (50, 99)
TIMES = ("ttft", "tpot", "itl", "e2el")


@dataclass(frozen=True)
class Load:
    """The load on a server.

    Attributes:
        concurrency: the number of streams at a time.
        prompts: the number of requests.
        prompt_tokens: the mean length of a prompt, before the chat template.
        tokens: the mean number of tokens that each request generates.
    """

    concurrency: int
    prompts: int
    prompt_tokens: int
    tokens: int


class LoadError(Exception):
    """The load generator ended, or some of its requests failed. The measurement is of no use."""


class LoadGenerator:
    """A running `load_process`."""

    def __init__(self, process: subprocess.Popen[str], model: Path, directory: Path, log: Path):
        self._process = process
        self._model = model
        self._directory = directory
        self._log = log

    def run(self, url: str, load: Load, seed: int) -> dict[str, Any]:
        """Put `load` on the server at `url`. The same seed makes the same requests, byte for byte.

        Returns:
            The values of `figures`, and the CPU seconds of the load generator itself.

        Raises:
            LoadError: a request or the load generator failed.
        """
        result = self._directory / "result.json"
        result.unlink(missing_ok=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.poll() is not None:
            raise LoadError(f"the load generator is gone (exit status {self._process.returncode}); see {self._log}.")
        before = _cpu_seconds(self._process.pid)
        try:
            self._process.stdin.write(json.dumps(arguments(url, self._model, load, seed, result)) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline().strip()
        except KeyboardInterrupt:
            # A server ends at once only if no client waits for its answers.
            self.close()
            raise
        if answer != "done":
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])
            raise LoadError(f"the load generator ended (exit status {self._process.wait()}):\n{tail}")
        after = _cpu_seconds(self._process.pid)
        return {**figures(json.loads(result.read_text()), load), "client_cpu_s": after - before}

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()


@contextmanager
def load_generator(model: Path, directory: Path) -> Iterator[LoadGenerator]:
    """Start a load generator. Its results and its log are in `directory`."""
    log = directory / "load.log"
    with log.open("w") as output:
        # The process has its own session. So Ctrl-C reaches only us, and we end the process.
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.serving.load_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            env={**measured_environment(), "VLLM_LOGGING_LEVEL": "WARNING"},
            cwd=ROOT,
            text=True,
            start_new_session=True,
        )
    generator = LoadGenerator(process, model, directory, log)
    try:
        yield generator
    finally:
        generator.close()


def arguments(url: str, model: Path, load: Load, seed: int, result: Path) -> list[str]:
    """Return the arguments of `vllm bench serve` for streamed chats of random text."""
    options = {
        "--backend": "openai-chat",
        "--endpoint": "/v1/chat/completions",
        "--base-url": url,
        "--model": model,
        "--served-model-name": MODEL_NAME,
        "--dataset-name": "random",
        "--random-input-len": load.prompt_tokens,
        "--random-output-len": load.tokens,
        # The lengths vary, so that streams come and go as in production, and not in waves.
        "--random-range-ratio": 0.3,
        "--num-prompts": load.prompts,
        "--max-concurrency": load.concurrency,
        "--temperature": 0,
        "--seed": seed,
        "--request-id-prefix": f"bench-{seed}-",
        "--percentile-metrics": ",".join(TIMES),
        "--metric-percentiles": ",".join(map(str, PERCENTILES)),
        "--result-dir": result.parent,
        "--result-filename": result.name,
    }
    switches = ["--ignore-eos", "--save-result", "--save-detailed", "--disable-tqdm"]
    return [*(str(part) for option in options.items() for part in option), *switches]


def figures(result: dict[str, Any], load: Load) -> dict[str, Any]:
    """Read a result file of `vllm bench serve`.

    Returns:
        Seconds, output tokens, output tokens per second, events per token, and p50 and p99 of each of `TIMES` in ms.

    Raises:
        LoadError: not all requests were answered.
    """
    if result["completed"] != load.prompts:
        # Each error is a traceback. Its last line names the error.
        errors = [error.strip().splitlines()[-1] for error in result.get("errors", []) if error]
        raise LoadError(f"{load.prompts - result['completed']} of {load.prompts} requests failed: {errors[:1]}")
    tokens = result["total_output_tokens"]
    # The generator measures the time between events, not tokens. So servers are comparable only if they cut streams
    # alike.
    events = sum(1 + len(gaps) for gaps in result["itls"])
    return {
        "duration_s": result["duration"],
        "output_tokens": tokens,
        "output_tokens_per_s": result["output_throughput"],
        "events_per_token": events / tokens,
        **{
            f"{time}_ms": {f"p{percentile}": result[f"p{percentile}_{time}_ms"] for percentile in PERCENTILES}
            for time in TIMES
        },
    }


def _cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def load_average() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0]
