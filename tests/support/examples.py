"""Runs an example of the documentation against a server, and compares its output with the server's answer."""

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.paths import ROOT
from tests.support.serving import MODEL_NAME
from tests.support.wire.http import Reply, Request, wire_server

EXAMPLES = ROOT / "docs" / "examples"
QUESTION = "How should I start a small bakery?"
NOT_SCORED = "Some tokens have no score. The numbers come from the other tokens."
# The least number of parts of an answer with 60 tokens.
LEAST_PARTS = 21
_RUNS = 5
# The examples print two decimals.
NEAR = 0.011


@dataclass(frozen=True)
class Printed:
    """The output of an example.

    Attributes:
        traits: the row of each trait in the list of traits: layer, threshold.
        text: the answer.
        scores: the row of each trait under the answer: mean, z, max z, spikes.
        parts: the numbers and the text of each line of the stream.
        streamed: the row of each trait under the stream, as in `scores`.
        warnings: the number of lines about tokens without a score.
    """

    traits: dict[str, list[float | None]]
    text: str
    scores: dict[str, list[float | None]]
    parts: list[tuple[list[float | None], str]]
    streamed: dict[str, list[float | None]]
    warnings: int


def run(command: Sequence[str], environment: Mapping[str, str], cwd: Path = EXAMPLES) -> Printed:
    """Run an example with only these environment variables and PATH.

    Run it again if its stream comes in few parts: vLLM joins the tokens of a moment in which its process stood still.
    """
    for _ in range(_RUNS):
        printed = _run(command, environment, cwd)
        if len(printed.parts) >= LEAST_PARTS:
            break
    return printed


def _run(command: Sequence[str], environment: Mapping[str, str], cwd: Path) -> Printed:
    done = subprocess.run(command, cwd=cwd, env=dict(environment), capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    listed, answer, stream = done.stdout.strip().split("\n\n")
    answer_line, *scores = answer.splitlines()
    parts = [line for line in stream.splitlines()[1:] if re.search(r"""["']$""", line)]
    streamed = stream.splitlines()[1 + len(parts) :]
    return Printed(
        traits=_rows(listed.splitlines()),
        text=_text(answer_line.removeprefix("answer: ")),
        scores=_rows(scores),
        parts=[_part(line) for line in parts],
        streamed=_rows(streamed),
        warnings=done.stdout.count(NOT_SCORED),
    )


def need(*programs: str) -> None:
    """Fail if a program is missing. The message says how to install the program."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.fail(f"{', '.join(missing)} not found; on Debian: apt-get install {' '.join(missing)}")


@contextmanager
def incomplete(url: str) -> Iterator[str]:
    """Serve a proxy before a server. The proxy marks every answer as incompletely scored."""

    def passed(request: Request) -> Reply:
        method = "GET" if request.body is None else "POST"
        headers = {"authorization": request.headers["authorization"]}
        answer = httpx.request(method, f"{url}{request.path}", json=request.body, headers=headers, timeout=120)
        body = answer.content.replace(b'"traits_complete":true', b'"traits_complete":false')
        return Reply(body, answer.status_code, {"content-type": answer.headers["content-type"]})

    with wire_server(passed) as before:
        yield before.url


def check(printed: Printed, url: str, watched: str, *, running: bool, key: str | None = None) -> None:
    """Assert that the printed numbers are those of the server's answer to the same question.

    Args:
        printed: the output of the example.
        url: the server's address.
        watched: the trait that the example shows while it streams.
        running: True if each part shows the running mean (in z if the server knows it); False if it shows the
            projections of the part.
        key: the server's API key.
    """
    headers = {"authorization": f"Bearer {key}"} if key else {}
    listed = httpx.get(f"{url}/v1/traits", headers=headers, timeout=60).raise_for_status().json()["data"]
    assert list(printed.traits) == [trait["id"] for trait in listed]
    for trait in listed:
        threshold = trait["threshold"] and trait["threshold"]["z"]
        _near(printed.traits[trait["id"]], [trait["layer"], threshold])
    body = {"model": MODEL_NAME, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
    request_body = {**body, "max_tokens": 60, "traits": True}
    answer = httpx.post(
        f"{url}/v1/chat/completions", json=request_body, headers=headers, timeout=120
    ).raise_for_status()
    (choice,) = answer.json()["choices"]
    assert printed.text == choice["message"]["content"]
    for rows in (printed.scores, printed.streamed):
        assert list(rows) == list(choice["traits"])
        for name, scores in choice["traits"].items():
            _near(rows[name], [scores["mean"], scores["z"], scores["max_z"], len(scores["spikes"])])
    assert "".join(text for _, text in printed.parts) == printed.text
    assert len(printed.parts) >= LEAST_PARTS
    scores = choice["traits"][watched]
    if running:
        last = scores["mean"] if scores["z"] is None else scores["z"]
        _near(printed.parts[-1][0], [last])
    else:
        _near([number for numbers, _ in printed.parts for number in numbers], scores["tokens"])


def _near(printed: Sequence[float | None], expected: Sequence[float | None]) -> None:
    assert list(printed) == [None if value is None else pytest.approx(value, abs=NEAR) for value in expected]


def _rows(lines: Sequence[str]) -> dict[str, list[float | None]]:
    """Return the cells of a table by the first cell of each row. The head and other lines are left out."""
    rows = [line.split() for line in lines[1:] if line != NOT_SCORED]
    return {name: _numbers(cells) for name, *cells in rows}


def _part(line: str) -> tuple[list[float | None], str]:
    """Split a line of a stream into its numbers, two spaces or a tab, and a string."""
    numbers, text = re.fullmatch(r"""(.*?)(?:  |\t)(["'].*["'])""", line).groups()  # type: ignore[union-attr]
    return _numbers(numbers.split()), _text(text)


def _numbers(cells: Sequence[str]) -> list[float | None]:
    return [None if cell == "-" else float(cell) for cell in cells]


def _text(literal: str) -> Any:
    """Return the value of a printed string literal of JSON or Python."""
    try:
        return json.loads(literal)
    except json.JSONDecodeError:
        return ast.literal_eval(literal)
