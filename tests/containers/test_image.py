"""The CPU image, built without an engine. It runs without a network, with read-only files, by a user without rights."""

import json
import re
import time
from pathlib import Path

import pytest

from tests.containers.container import Container, container, read_only
from tests.containers.image import Image

# The build of the image takes minutes. So does the start of the server on a machine with two busy cores.
pytestmark = pytest.mark.timeout(1800)
START_TIMEOUT = 400.0
STOP_TIMEOUT = 60.0
TRAITS = {"alignment-theatre", "corrigibility", "deception", "manipulativeness", "paternalism", "power-seeking"}
CHAT = {
    "model": "SmolLM2-135M-Instruct",
    "max_tokens": 8,
    "temperature": 0,
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
}


def run(image: Image, scratch: Path, *command: str) -> str:
    """Run a command in place of the server, and return its output."""
    completed = read_only(image, scratch).run(command)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


def ask(running: Container, path: str, body: object = None) -> str:
    """Return the body of an answer of the server. The server can be reached only from its own network."""
    data = [] if body is None else ["--header", "content-type: application/json", "--data", json.dumps(body)]
    completed = running.run("curl", "--fail-with-body", "--silent", *data, f"http://127.0.0.1:8000{path}")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


def test_the_image_serves_the_embedded_model_with_scores_and_ends_in_order(cpu_image: Image, scratch: Path) -> None:
    with container(cpu_image, scratch) as running:
        running.wait_until_healthy(cpu_image.health, START_TIMEOUT)
        answer = json.loads(ask(running, "/v1/chat/completions", CHAT))
        [choice] = answer["choices"]
        assert choice["message"]["content"]
        assert choice["traits_complete"]
        assert set(choice["traits"]) == TRAITS
        for scores in choice["traits"].values():
            assert len(scores["tokens"]) == answer["usage"]["completion_tokens"]
        assert "traitwatch_tokens_scored_total" in ask(running, "/metrics")
        assert "Traceback" not in running.log.read_text(errors="replace")
        assert running.stop(STOP_TIMEOUT) == 0


def test_the_container_can_write_only_to_its_volume_and_to_tmp(cpu_image: Image, scratch: Path) -> None:
    assert run(cpu_image, scratch, "id", "--user").strip() == "10001"
    for place in ("/home/traitwatch", "/tmp"):
        run(cpu_image, scratch, "touch", f"{place}/file")
    completed = read_only(cpu_image, scratch).run(["touch", "/opt/traitwatch/file"])
    assert completed.returncode != 0
    assert "Read-only file system" in completed.stderr
    status = run(cpu_image, scratch, "cat", "/proc/self/status")
    assert re.findall(r"^Cap(?:Prm|Eff|Bnd):\s+(\w+)$", status, re.MULTILINE) == ["0" * 16] * 3


def test_the_code_that_torch_compiles_can_be_loaded(cpu_image: Image, scratch: Path) -> None:
    code = "import torch; print(float(torch.compile(lambda x: (x.sin() + 1).sum())(torch.zeros(8))))"
    assert run(cpu_image, scratch, "python", "-c", code).split()[-1] == "8.0"


def test_the_inspector_starts_from_the_wheel(cpu_image: Image, scratch: Path) -> None:
    with container(cpu_image, scratch, ["ui", "--auth", "user:password"]) as running:
        # The health check of the compose file.
        check = ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:7860/"]
        running.wait_until_healthy(check, START_TIMEOUT)
        assert running.stop(STOP_TIMEOUT) in (0, 143)


def test_the_wheel_carries_the_files_of_prometheus_and_alertmanager(cpu_image: Image, scratch: Path) -> None:
    written = run(cpu_image, scratch, "traitwatch", "rules", "--out", "/tmp/monitoring").split()
    assert [Path(path).name for path in written] == [
        *("prometheus.yml", "recording_rules.yml", "alert_rules.yml", "alertmanager.yml")
    ]


def test_the_wheel_leaves_out_the_answers_behind_the_shipped_vectors(cpu_image: Image, scratch: Path) -> None:
    names = run(cpu_image, scratch, "ls", "/opt/traitwatch/data/SmolLM2-135M-Instruct").split()
    assert "paternalism_response_avg_diff.pt" in names
    assert not [name for name in names if name.endswith((".csv", ".csv.gz"))]


def test_the_embedded_model_is_at_hand(cpu_image: Image, scratch: Path) -> None:
    assert run(cpu_image, scratch, "traitwatch", "model").strip() == cpu_image.command[1]


def test_nothing_of_this_machine_is_in_the_image(cpu_image: Image) -> None:
    assert not list((cpu_image.root / "mnt").iterdir())
    assert not (cpu_image.root / "etc" / "pip.conf").exists()
    assert not (cpu_image.root / "etc" / "uv").exists()


def test_the_network_and_the_mounts_end_with_the_container(cpu_image: Image, scratch: Path) -> None:
    with container(cpu_image, scratch, ["ui"]) as running:
        deadline = time.monotonic() + 60
        while "lo:" not in running.run("cat", "/proc/net/dev").stdout:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        # No route: at most a heading.
        assert running.run("cat", "/proc/net/route").stdout.count("\n") <= 1
    assert str(cpu_image.root) not in Path("/proc/self/mounts").read_text()
    deadline = time.monotonic() + 30
    while (left := [p for p in Path("/proc").iterdir() if _root(p) == cpu_image.root]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def _root(process: Path) -> Path | None:
    try:
        return (process / "root").readlink()
    except OSError:
        return None
