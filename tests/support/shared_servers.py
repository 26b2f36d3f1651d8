"""The servers that test modules share. They start in the background, and serve until the session ends.

- `scored` and `unscored` serve the small random model in float32: our server and vLLM's own, with the same options. A
  projection of this model is exact to the fourth decimal, and sampling does not depend on rounding.
- `embedded` serves the embedded model with the shipped vectors and with random vectors.

`SharedServers` starts the servers that the collected tests use. Meanwhile, the tests that need no server run.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from tests.support.cases import GRAMMAR_OPTIONS
from tests.support.random_llama import LAYER_OPTIONS, save_model, save_probes
from tests.support.serving import WITH_ADMIN_KEY, Server, plain_vllm, serving, traitwatch
from traitwatch.precision import default_vllm_dtype
from traitwatch.vectors import SHIPPED, Float32Array, load_vectors, save_tensor
from traitwatch_builder.models.embedded import embedded_model

NAMES = ("scored", "unscored", "embedded")
# On two cores, two servers start sooner together than in turn. Three servers do not.
AT_ONCE = 2
# A failed start is tried once more.
STARTS = 2

# There is no reasoning parser here. granite's parser does not know the end of the reasoning by tokens. With it,
# vLLM streams tool calls as content.
_RANDOM_OPTIONS = (
    *("--dtype", "float32", "--enforce-eager", "--max-num-batched-tokens", "256", "--max-num-seqs", "64"),
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes", *GRAMMAR_OPTIONS),
    *("--enable-prompt-tokens-details", "--sse-keep-alive-interval", "1"),
)
# By default, vLLM does not store the answers of background requests.
_WITH_STORE = ("env", "VLLM_ENABLE_RESPONSES_API_STORE=1")

# The layers of the parity tests. The last is after the final norm.
EMBEDDED_LAYERS = (1, 10, 20, 30)
EMBEDDED_LAYER_OPTIONS = [option for layer in EMBEDDED_LAYERS for option in ("--traits-layer", f"probe{layer}={layer}")]
# The directory of the shipped vectors.
SHIPPED_VECTORS = SHIPPED / "SmolLM2-135M-Instruct"
# A threshold that ordinary answers pass, so that the tests count spikes.
LOW_THRESHOLD = ("--traits-threshold", "deception=-0.5")
# A budget below the length of the longest prompts, so that vLLM prefills these prompts in chunks.
_EMBEDDED_OPTIONS = (
    *("--dtype", default_vllm_dtype(), "--enforce-eager"),
    *("--max-num-batched-tokens", "128", "--max-num-seqs", "64"),
    *(*LOW_THRESHOLD, "--traits-events-text"),
)


def save_embedded_probes(directory: Path) -> Path:
    """Write one random vector for each layer of `EMBEDDED_LAYERS` to `directory`, and return the directory."""
    random = np.random.default_rng(7)
    directory.mkdir()
    for layer in EMBEDDED_LAYERS:
        vector = random.standard_normal((31, 576)).astype(np.float32)
        save_tensor(vector, directory / f"probe{layer}_response_avg_diff.pt")
    return directory


def embedded_directions(probes: Path) -> dict[str, tuple[int, Float32Array]]:
    """Return the layer and the unit direction of each vector of `save_embedded_probes`."""
    layers = {f"probe{layer}": layer for layer in EMBEDDED_LAYERS}
    return {v.trait: (layers[v.trait], v.direction(layers[v.trait])) for v in load_vectors([probes])}


class SharedServers:
    """Servers that start in the background, each once, and end together.

    Attributes:
        random_model: the directory of the random model.
        random_probes: the directory of the vectors of `save_probes`.
        embedded_probes: the directory of the random vectors for the embedded model.
        spike_log: the file in which `embedded` logs its spikes.
    """

    def __init__(self, names: Sequence[str], directory: Path):
        """Write the models and the vectors, and start the servers.

        Args:
            names: the names in `NAMES` to start, in the order of their starts.
            directory: the directory for the models, the vectors and the logs.
        """
        self.random_model = save_model(directory / "random-llama")
        self.random_probes = save_probes(directory / "random-probes")
        self.embedded_probes = save_embedded_probes(directory / "embedded-probes")
        self.spike_log = directory / "spikes.jsonl"
        self._directory = directory
        self._commands = {name: self._command(name) for name in names}
        self._ending = threading.Event()
        self._starts = dict.fromkeys(names, 0)
        self._contexts: list[AbstractContextManager[Server]] = []
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._servers = {name: self._submit(name) for name in names}

    def get(self, name: str) -> Server:
        """Return a server once it is ready. If its start failed, raise the error and start the server once more."""
        try:
            return self._servers[name].result()
        except AssertionError:
            if self._starts[name] < STARTS:
                self._servers[name] = self._submit(name)
            raise

    def close(self) -> None:
        """End all servers, also servers that are still starting."""
        self._ending.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        with ThreadPoolExecutor() as pool:
            for end in [pool.submit(context.__exit__, None, None, None) for context in self._contexts]:
                end.result()

    def _command(self, name: str) -> list[str]:
        if name == "embedded":
            traits = ("--traits", self.embedded_probes, "--traits", SHIPPED_VECTORS, "--traits-events", self.spike_log)
            command = traitwatch("serve", embedded_model(), *traits, *EMBEDDED_LAYER_OPTIONS)
            return [*WITH_ADMIN_KEY, *command, *_EMBEDDED_OPTIONS]
        ours = traitwatch("serve", self.random_model, "--traits", self.random_probes, *LAYER_OPTIONS)
        command = ours if name == "scored" else plain_vllm(self.random_model)
        return [*_WITH_STORE, *command, *_RANDOM_OPTIONS]

    def _submit(self, name: str) -> "Future[Server]":
        self._starts[name] += 1
        return self._pool.submit(self._start, name, self._directory / f"{name}-{self._starts[name]}.log")

    def _start(self, name: str, log: Path) -> Server:
        context = serving(self._commands[name], log, self._stop_at_the_end)
        server = context.__enter__()
        self._contexts.append(context)
        return server

    def _stop_at_the_end(self, seconds: float) -> None:
        if self._ending.is_set():
            raise InterruptedError("the session ends")
