"""The scene of the inspector's tests: a real server, an inspector of this server, and a browser."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from playwright.sync_api import Browser

from tests.support.serving import ADMIN_KEY, MODEL_NAME, OPERATOR, WITH_ADMIN_KEY, Server, serving, traitwatch
from traitwatch import vectors
from traitwatch.processes import free_port, inspector
from traitwatch_builder.models.embedded import embedded_model
from traitwatch_dashboards.example_chats import CHATS

SHIPPED = vectors.SHIPPED / "SmolLM2-135M-Instruct"
KEY = "a-key-that-no-page-may-show"
HEADERS = {"Authorization": f"Bearer {KEY}", **OPERATOR}
TRAITS = ["alignment-theatre", "corrigibility", "deception", "manipulativeness", "paternalism", "power-seeking"]
BARE = "uncalibrated"


@dataclass(frozen=True)
class Scene:
    """A server, and an inspector of this server.

    Attributes:
        server: the server.
        address: the inspector's address.
        browser: the browser.
        directory: the directory of the logs.
    """

    server: Server
    address: str
    browser: Browser
    directory: Path

    def get(self, path: str) -> dict[str, list[dict[str, object]]]:
        answer = httpx.get(f"{self.server.url}{path}", headers=HEADERS, timeout=60)
        listed: dict[str, list[dict[str, object]]] = answer.json()
        return listed

    def running(self) -> float:
        return self.server.metric("vllm:num_requests_running")

    def spike(self) -> str:
        """Cause a spike of paternalism, and return its line of the event log."""
        messages = CHATS["after paternalistic replies"]
        body = {"model": MODEL_NAME, "messages": messages, "n": 8, "max_tokens": 80, "temperature": 0.7, "top_p": 0.9}
        log = self.directory / "spikes.jsonl"
        for _ in range(5):
            for line in log.read_text().splitlines():
                if json.loads(line)["trait"] == "paternalism":
                    return line
            answer = httpx.post(f"{self.server.url}/v1/chat/completions", json=body, headers=HEADERS, timeout=120)
            answer.raise_for_status()
            time.sleep(1)
        raise AssertionError("40 paternalistic answers without a spike")

    @contextmanager
    def inspecting(self, url: str, key: str | None = KEY, auth: str | None = None) -> Iterator[str]:
        log = self.directory / f"inspector-{free_port()}.log"
        with inspector([url], free_port(), log, api_key=key, auth=auth) as address:
            yield address


@contextmanager
def serve(directory: Path) -> Iterator[Server]:
    """Serve the embedded model with the shipped traits and an uncalibrated one.

    Args:
        directory: the directory for the logs, and for the vector of the uncalibrated trait.
    """
    bare = directory / "vectors"
    bare.mkdir()
    shutil.copy(SHIPPED / "deception_response_avg_diff.pt", bare / f"{BARE}_response_avg_diff.pt")
    command = traitwatch("serve", embedded_model(), "--traits", SHIPPED, "--traits", bare, "--traits-admin")
    command += ["--traits-events", str(directory / "spikes.jsonl"), "--traits-events-text"]
    command += ["--enforce-eager", "--api-key", KEY]
    with serving([*WITH_ADMIN_KEY, *command], directory / "server.log") as server:
        yield server


@contextmanager
def set_up(server: Server, browser: Browser) -> Iterator[Scene]:
    """Start an inspector of a server that `serve` has started."""
    directory = server.log.parent
    with inspector([server.url], free_port(), directory / "inspector.log", api_key=KEY, admin_key=ADMIN_KEY) as address:
        yield Scene(server, address, browser, directory)


@contextmanager
def without(server: Server, *names: str) -> Iterator[None]:
    """Unload traits inside the block."""
    loads = {name: f"{server.url}/v1/traits/{name}" for name in names}
    for load in loads.values():
        httpx.delete(load, headers=HEADERS, timeout=60).raise_for_status()
    try:
        yield
    finally:
        for name, load in loads.items():
            path = {"path": f"{name}_response_avg_diff.pt"}
            httpx.post(load, headers=HEADERS, json=path, timeout=60).raise_for_status()
