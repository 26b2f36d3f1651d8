"""`traitwatch define` gets a definition from Claude, or from any assistant by copy and paste."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.support.claude import GOOD, ONE_CALL, TEXT, Serve, faulty
from tests.support.paths import ROOT
from tests.support.wire import anthropic as wire
from traitwatch.errors import ArtifactError
from traitwatch_builder.commands.define import define_command
from traitwatch_builder.definitions.define import define_prompt, estimated_input_tokens
from traitwatch_builder.definitions.definition import definition_files, load_definition, split, whole_definition

pytestmark = pytest.mark.usefixtures("apart")


def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(define_command, list(arguments), input=stdin)


# The command


def test_the_command_writes_both_halves_and_prints_the_cost(serve: Serve, tmp_path: Path) -> None:
    server = serve(wire.streamed(TEXT, thinking="hm"))
    result = run("deception", "--description", "lying [on purpose]", "--definitions", "new")
    assert result.exit_code == 0, result.output
    paths = definition_files(Path("new"), "deception")
    assert result.stdout.splitlines() == [str(path) for path in paths]
    assert tuple(load_definition(path) for path in paths) == split(whole_definition(GOOD, "x"))
    assert f"Cost: {ONE_CALL}, by claude-sonnet-" in result.stderr
    assert "5 instruction pairs, 20 + 20 questions, 16 examples" in result.stderr
    assert "lying [on purpose]" in server.requests[0].body["messages"][0]["content"]


def test_a_dry_run_asks_nobody_and_needs_no_key(serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = serve(wire.streamed(TEXT))
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    result = run("deception", "--dry-run", "--claude-model", "claude-opus-9")
    assert result.exit_code == 0
    for part in (
        "claude-opus-9",
        f"{estimated_input_tokens('deception', None):,} input tokens",
        "32,000 output tokens",
    ):
        assert part in result.stderr
    assert server.requests == []
    assert not list(tmp_path.glob("trait_data_*"))


def test_an_existing_definition_is_not_paid_for_again(serve: Serve, tmp_path: Path) -> None:
    server = serve(wire.streamed(TEXT))
    extract = definition_files(tmp_path, "deception")[0]
    extract.parent.mkdir()
    extract.write_text("mine")
    result = run("deception")
    assert isinstance(result.exception, ArtifactError)
    assert "exists; give --force" in str(result.exception)
    assert server.requests == []
    assert extract.read_text() == "mine"
    assert run("deception", "--force").exit_code == 0
    assert load_definition(extract).description == GOOD["description"]


def test_a_paid_answer_that_cannot_be_written_is_saved_elsewhere(serve: Serve, tmp_path: Path) -> None:
    serve(wire.streamed(TEXT))
    (tmp_path / "trait_data_eval").write_text("in the way")
    result = run("deception")
    assert isinstance(result.exception, ArtifactError)
    saved = tmp_path / "cache" / "definitions" / "deception.txt"
    assert f"saved in {saved}" in result.stderr
    assert str(ONE_CALL) in result.stderr
    assert not list(tmp_path.glob("trait_data_extract/*"))
    assert run("deception", "--from", str(saved), "--definitions", "elsewhere").exit_code == 0


@pytest.mark.parametrize("name", ["../evil", "", "a b"])
def test_a_name_that_is_no_file_name(serve: Serve, name: str) -> None:
    server = serve(wire.streamed(TEXT))
    assert isinstance(run(name).exception, ArtifactError)
    assert server.requests == []


def test_ctrl_c_stops_with_130_and_leaves_nothing_behind(serve: Serve, tmp_path: Path) -> None:
    server = serve(wire.streamed(TEXT, delay=60))
    code = "from traitwatch_builder.commands.define import define_command; define_command()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "deception", "--definitions", str(tmp_path / "new")],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 300
        while not server.requests and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert "Stopped. Nothing was written." in stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "new").exists()


# Copy and paste


def test_the_prompt_is_printed_alone_and_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    result = run("sycophancy", "--print-prompt", "--description", 'says "yes" & <amen> {{ trait }}')
    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout == define_prompt("sycophancy", 'says "yes" & <amen> {{ trait }}', pasted=True) + "\n"
    assert 'says "yes" & <amen> {{ trait }}' in result.stdout


def test_the_prompt_names_everything_that_is_checked() -> None:
    prompt = define_prompt("sycophancy", None, pasted=True)
    for part in (
        "sycophancy",
        "exactly 5",
        "exactly 40",
        "exactly 16",
        "{question}",
        "{answer}",
        "REFUSAL",
        "0 to 100",
    ):
        assert part in prompt
    for key in GOOD:
        assert f'"{key}"' in prompt, "the prompt has the form of the JSON"
    assert "no description" in prompt
    assert "{%" not in prompt
    assert "{{" not in prompt


def test_the_prompt_for_claude_leaves_out_the_form_that_the_schema_gives() -> None:
    assert "The form of your answer" in define_prompt("x", None, pasted=True)
    assert "The form of your answer" not in define_prompt("x", None)


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        json.dumps(GOOD, indent=2),
        "\ufeff" + TEXT,
        f"```json\n{TEXT}\n```",
        f"Here is the {{trait}} definition, with {{question}} and {{answer}}:\n\n```\n{TEXT}\n```\nAnything else? :}}",
        TEXT.replace("\\n", "\n"),
        define_prompt("deception", None, pasted=True) + "\n\n" + TEXT,
        TEXT.replace("\n", "\r\n"),
    ],
    ids=["bare", "indented", "BOM", "fence", "words around", "raw line breaks", "whole chat", "CRLF"],
)
@pytest.mark.parametrize("by", ["file", "stdin"])
def test_a_pasted_answer_is_found(text: str, by: str, tmp_path: Path) -> None:
    (tmp_path / "answer.txt").write_bytes(text.encode())
    source = "-" if by == "stdin" else "answer.txt"
    result = run("deception", "--from", source, stdin=text.encode() if by == "stdin" else None)
    assert result.exit_code == 0, result.output
    halves = tuple(load_definition(path) for path in definition_files(tmp_path, "deception"))
    assert halves == split(whole_definition(GOOD, "x"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "answer.txt is empty"),
        (b"Sorry, I cannot.", "answer.txt holds no complete JSON object with a trait definition."),
        (TEXT[:-200].encode(), "answer.txt holds no complete JSON object with a trait definition: line 1, column"),
        (b'{"pos": "x"}', "holds no complete JSON object"),
        (b"{" * 3_000, "holds no complete JSON object"),
        (b'{"a":' * 3_000, "nested too deeply"),
        (b"\xff\xfe{}", "answer.txt is not UTF-8 text"),
        (faulty(questions=GOOD["questions"][:20]).encode(), "questions: 20 of them, where 40 are needed"),
    ],
    ids=["empty", "refusal", "cut off", "part", "braces", "deep", "UTF-16", "20 questions"],
)
def test_the_error_for_an_unusable_pasted_answer_names_the_fault(text: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / "answer.txt").write_bytes(text)
    result = run("deception", "--from", "answer.txt")
    assert isinstance(result.exception, ArtifactError), result.output
    assert expected in str(result.exception)
    assert not list(tmp_path.glob("trait_data_*"))


def test_a_description_fills_in_where_the_answer_has_none(tmp_path: Path) -> None:
    text = json.dumps({key: value for key, value in GOOD.items() if key != "description"})
    assert isinstance(run("deception", "--from", "-", stdin=text).exception, ArtifactError)
    assert run("deception", "--from", "-", "--description", "lying", stdin=text).exit_code == 0
    assert load_definition(definition_files(tmp_path, "deception")[0]).description == "lying"


def test_a_dry_run_of_a_pasted_answer_checks_it_and_writes_nothing(tmp_path: Path) -> None:
    result = run("deception", "--from", "-", "--dry-run", stdin=TEXT)
    assert result.exit_code == 0
    assert "standard input is a usable definition of deception" in result.stderr
    assert not list(tmp_path.glob("trait_data_*"))
    assert isinstance(run("deception", "--from", "-", "--dry-run", stdin="{}").exception, ArtifactError)


def test_the_same_answer_twice_is_no_error_and_another_one_is(tmp_path: Path) -> None:
    assert run("deception", "--from", "-", stdin=TEXT).exit_code == 0
    assert run("deception", "--from", "-", stdin=TEXT).exit_code == 0
    other = faulty(description="another")
    assert "exists and differs" in str(run("deception", "--from", "-", stdin=other).exception)
    assert run("deception", "--from", "-", "--force", stdin=other).exit_code == 0


def test_printing_and_taking_exclude_each_other(tmp_path: Path) -> None:
    result = run("deception", "--print-prompt", "--from", "-", stdin=TEXT)
    assert result.exit_code == 2
    assert "exclude each other" in result.output
