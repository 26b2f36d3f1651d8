"""The examples of the documentation print the server's scores, of a trait with a calibration and of one without."""

import os
import sys
from collections.abc import Mapping

import pytest

from tests.support.examples import Printed, check, incomplete, run
from tests.support.serving import MODEL_NAME, Server

pytestmark = pytest.mark.engine

# The prefix of the environment variables that each example reads.
PYTHON = {"python_openai.py": "OPENAI", "python_anthropic.py": "ANTHROPIC"}


def _python(name: str, url: str, *arguments: str) -> Printed:
    return run([sys.executable, name, *arguments], _environment(PYTHON[name], url))


def _environment(sdk: str, url: str) -> Mapping[str, str]:
    return {
        "PATH": os.environ["PATH"],
        f"{sdk}_BASE_URL": url if sdk == "ANTHROPIC" else f"{url}/v1",
        f"{sdk}_AUTH_TOKEN" if sdk == "ANTHROPIC" else f"{sdk}_API_KEY": "none",
        f"{sdk}_MODEL": MODEL_NAME,
    }


@pytest.mark.parametrize("name", PYTHON)
def test_python_without_calibration_shows_projections(name: str, scored: Server) -> None:
    printed = _python(name, scored.url)
    check(printed, scored.url, "probe1", running=True)
    assert printed.streamed["probe1"][1] is None
    assert printed.warnings == 0


@pytest.mark.parametrize("name", PYTHON)
def test_python_with_calibration_shows_z(name: str, embedded: Server) -> None:
    printed = _python(name, embedded.url, "paternalism")
    check(printed, embedded.url, "paternalism", running=True)
    assert printed.streamed["paternalism"][1] == pytest.approx(printed.parts[-1][0][0], abs=0.02)
    assert printed.traits["paternalism"][1] is not None
    assert printed.warnings == 0


@pytest.mark.parametrize("name", PYTHON)
def test_python_warns_of_unscored_tokens(name: str, scored: Server) -> None:
    with incomplete(scored.url) as url:
        assert _python(name, url).warnings == 2
