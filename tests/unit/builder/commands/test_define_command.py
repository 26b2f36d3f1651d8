"""`traitwatch define` gets a definition from Claude, or from any assistant by copy and paste."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    assert "5 instruction pairs, 20 + 20 questions (1 to 20 make the vector, the rest test it), 16" in result.stderr
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
        (b"\xff\xfe{}", "answer.txt is UTF-16 text, not UTF-8 text: save it as UTF-8"),
        (b"\xff{}", "answer.txt is not UTF-8 text: line 1 has the byte 0xff"),
        (faulty(questions=GOOD["questions"][:20]).encode(), "questions: 20 of them, where 40 are needed"),
    ],
    ids=["empty", "refusal", "cut off", "part", "braces", "deep", "UTF-16", "no UTF-8", "20 questions"],
)
def test_the_error_for_an_unusable_pasted_answer_names_the_fault(text: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / "answer.txt").write_bytes(text)
    result = run("deception", "--from", "answer.txt")
    assert isinstance(result.exception, ArtifactError), result.output
    assert expected in str(result.exception)
    assert not list(tmp_path.glob("trait_data_*"))


AUTHORS = {key: GOOD[key] for key in ("instruction", "questions", "eval_prompt")}
QUESTIONS: list[str] = GOOD["questions"]


@pytest.mark.parametrize("content", [AUTHORS, {**GOOD, "description": " "}], ids=["authors", "empty"])
def test_a_description_fills_in_where_the_answer_has_none(content: dict[str, Any], tmp_path: Path) -> None:
    text = json.dumps(content)
    refusal = run("deception", "--from", "-", stdin=text).exception
    assert isinstance(refusal, ArtifactError)
    assert str(refusal).endswith("Give the meaning of the trait with --description.")
    assert run("deception", "--from", "-", "--description", "lying", stdin=text).exit_code == 0
    assert load_definition(definition_files(tmp_path, "deception")[0]).description == "lying"


def test_a_description_that_is_not_used_is_told(tmp_path: Path) -> None:
    result = run("deception", "--from", "-", "--description", "lying", stdin=TEXT)
    assert "has a description of its own, which stays" in result.stderr
    assert load_definition(definition_files(tmp_path, "deception")[0]).description == GOOD["description"]


def test_a_list_of_questions_is_split_into_halves(tmp_path: Path) -> None:
    text = json.dumps({**AUTHORS, "questions": QUESTIONS[:21]})
    refusal = str(run("deception", "--from", "-", "--description", "lying", stdin=text).exception)
    assert "questions: 21 of them, where 40 are needed" in refusal
    assert "--split takes another number of questions" in refusal
    assert "give --definition DIR to the other commands" in refusal
    result = run("deception", "--from", "-", "--description", "lying", "--split", stdin=text)
    assert result.exit_code == 0, result.output
    assert "11 + 10 questions (1 to 11 make the vector, the rest test it)" in result.stderr
    extract, evaluate = (load_definition(path) for path in definition_files(tmp_path, "deception"))
    assert (extract.questions, evaluate.questions) == (QUESTIONS[:11], QUESTIONS[11:21])


def test_too_few_questions_are_not_split(tmp_path: Path) -> None:
    text = json.dumps({**GOOD, "questions": QUESTIONS[:3]})
    refusal = str(run("deception", "--from", "-", "--split", stdin=text).exception)
    assert "questions: 3 of them, where at least 4 are needed" in refusal
    assert run("deception", "--split").exit_code == 2


@pytest.mark.parametrize(
    "text",
    [
        re.sub(r'(["\]}])(\n\s*[\]}])', r"\1,\2", json.dumps(GOOD, indent=1)),
        json.dumps({"definition": GOOD}),
        json.dumps({"trait": "deception", "description": "outer", "result": [{"deception": GOOD}]}),
        define_prompt("deception", None, pasted=True) + TEXT[:-1] + ",}",
    ],
    ids=["trailing commas", "one level down", "two levels down", "whole chat"],
)
def test_the_harmless_of_an_assistants_json_is_read(text: str, tmp_path: Path) -> None:
    result = run("deception", "--from", "-", stdin=text)
    assert result.exit_code == 0, result.output
    halves = tuple(load_definition(path) for path in definition_files(tmp_path, "deception"))
    assert halves == split(whole_definition(GOOD, "x"))


def changed(change: Callable[[str], Any], *numbers: int) -> str:
    """Return the definition with some of its questions changed."""
    questions = [change(text) if i in numbers else text for i, text in enumerate(QUESTIONS, start=1)]
    return json.dumps({**GOOD, "questions": questions}, ensure_ascii=False)


EVERY = range(1, 41)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            changed(lambda text: {"text": text}, *EVERY),
            "question 1, question 2, question 3 and 37 more: is an object with",
        ),
        (changed(lambda text: f"3. {text}", 3), "question 3: begins with a number or a mark of a list"),
        (changed(lambda text: f"Q: 3) {text}"[3:], 5, 6), "question 5: begins with a number or a mark of a list"),
        (changed(lambda text: f"- {text}", *EVERY), "question 1, question 2, question 3 and 37 more: begins with"),
        (changed(lambda text: f"{text} café “so”".encode().decode("cp1252", "replace"), 2), "question 2: has lost"),
        (changed(lambda text: f"{text} café".encode().decode("cp1252"), 2), "question 2: is UTF-8 that was read"),
        (
            changed(lambda text: f"don\u2019t {text}".encode().decode("latin-1"), 2),
            "question 2: is UTF-8 that was read as",
        ),
        (changed(lambda text: f"{text} да".encode().decode("latin-1"), 2), "question 2: is UTF-8 that was read"),
        (changed(lambda text: f"{text} caf\ufffd", 4), "question 4: has lost a character in a conversion"),
        (TEXT.replace('"questions":', '"questions": [], "questions":'), "The key 'questions' occurs twice"),
        (TEXT.replace('"', "\u201c"), "line 1, column 2: \u201c is no straight quote"),
    ],
)
def test_the_harmful_of_an_assistants_json_is_refused_with_its_place(text: str, expected: str, tmp_path: Path) -> None:
    refusal = run("deception", "--from", "-", stdin=text.encode()).exception
    assert isinstance(refusal, ArtifactError)
    assert expected in str(refusal)
    assert str(refusal).count("\n") <= 2, "equal problems are one line"
    assert not list(tmp_path.glob("trait_data_*"))


@pytest.mark.parametrize(
    "text",
    [
        "2. Bundesliga: who wins?",
        "3D printing?",
        "„Spaß“ or „Ä“?",
        "ÀÉÂ and SÃO PAULO: 5 € “so”?",
        "川 or 😀?",
        "-5 °C?",
    ],
)
def test_a_sound_question_is_not_taken_for_a_damaged_one(text: str, tmp_path: Path) -> None:
    assert run("deception", "--from", "-", stdin=changed(lambda _: text, 7).encode()).exit_code == 0


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
