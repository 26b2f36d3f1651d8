"""The examples of the documentation in JavaScript and curl, against the real server with an API key."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.e2e.scene import BARE, KEY, without
from tests.support.examples import EXAMPLES, Printed, check, incomplete, need, run
from tests.support.serving import MODEL_NAME, Server

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def calibrated(server: Server) -> Iterator[Server]:
    """The server with only calibrated traits, like a reader's server."""
    with without(server, BARE):
        yield server


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JavaScript example in its own directory, with the packages of its lock file."""
    need("node", "npm")
    directory = tmp_path_factory.mktemp("example")
    for name in ("javascript_openai.mjs", "package.json", "package-lock.json"):
        shutil.copy(EXAMPLES / name, directory)
    done = subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


def _environment(url: str) -> Mapping[str, str]:
    openai = {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": KEY, "OPENAI_MODEL": MODEL_NAME}
    return {"PATH": os.environ["PATH"], **openai}


def _javascript(directory: Path, url: str, *arguments: str) -> Printed:
    return run(["node", "javascript_openai.mjs", *arguments], _environment(url), directory)


def _curl(url: str) -> Printed:
    need("curl", "jq")
    return run(["./curl.sh"], _environment(url))


@pytest.mark.parametrize("arguments", [["paternalism"], []])
def test_javascript_prints_the_scores_of_the_server(arguments: list[str], calibrated: Server, installed: Path) -> None:
    printed = _javascript(installed, calibrated.url, *arguments)
    watched = [*arguments, *printed.traits][0]
    check(printed, calibrated.url, watched, running=True, key=KEY)
    assert printed.streamed[watched][1] == pytest.approx(printed.parts[-1][0][0], abs=0.02)
    assert printed.warnings == 0


def test_javascript_warns_of_tokens_without_a_score(calibrated: Server, installed: Path) -> None:
    with incomplete(calibrated.url) as url:
        assert _javascript(installed, url).warnings == 2


def test_curl_prints_the_scores_of_the_server(calibrated: Server) -> None:
    printed = _curl(calibrated.url)
    check(printed, calibrated.url, next(iter(printed.traits)), running=False, key=KEY)
    assert printed.warnings == 0


def test_curl_warns_of_tokens_without_a_score(calibrated: Server) -> None:
    with incomplete(calibrated.url) as url:
        assert _curl(url).warnings == 2


def test_no_lock_file_names_a_registry() -> None:
    """npm fetches the packages from its configured registry, and compares them with the hashes of the lock file."""
    lock = (EXAMPLES / "package-lock.json").read_text()
    assert "://" not in lock
    assert '"integrity": "sha512-' in lock
