"""`traitwatch define`: Claude over the wire with the real SDK, and any assistant by copy and paste."""

import copy
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from builder import claude
from builder.commands.define import define
from builder.define import SCHEMA, define_prompt, define_trait, estimated_input_tokens
from builder.definitions import definition_files, load_definition, split, whole_definition
from builder.errors import ArtifactError, PipelineError
from builder.usage import Usage
from tests.unit.test_definitions import shipped
from tests.wire import anthropic as wire
from tests.wire.http import Reply, WireServer, wire_server

GOOD = shipped("deception")
TEXT = json.dumps(GOOD)
ONE_CALL = Usage(1, wire.INPUT_TOKENS, wire.OUTPUT_TOKENS)
SOON = {"retry_after_ms": "1"}

Serve = Callable[..., WireServer]


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials but the test's, no wait between tries, and a cache of the test's own."""
    for name in ("ANTHROPIC_AUTH_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRAITWATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(claude, "_STREAM_WAIT", 0.0)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start a server that gives these replies in turn, and point the SDK at it."""
    with ExitStack() as stack:

        def start(*replies: Reply) -> WireServer:
            server = stack.enter_context(wire_server(wire.scripted(*replies)))
            monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
            return server

        yield start


def ask(model: str = "claude-test") -> tuple[Any, Usage, str]:
    """Define deception, and return the definition, the cost and what was shown."""
    shown = io.StringIO()
    whole, usage = define_trait("deception", "lying", model, Console(file=shown, width=1000))
    return whole.model_dump(), usage, shown.getvalue()


def told(error: type[Exception] = PipelineError) -> str:
    with pytest.raises(error) as caught:
        ask()
    return str(caught.value)


def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(define, list(arguments), input=stdin)


# Claude answers


def test_a_streamed_answer_becomes_a_definition_at_its_price(serve: Serve) -> None:
    server = serve(wire.streamed(TEXT))
    whole, usage, _ = ask("claude-sonnet-9")
    assert whole == GOOD
    assert usage == ONE_CALL
    (request,) = server.requests
    assert request.path == "/v1/messages"
    assert request.body["model"] == "claude-sonnet-9"
    assert request.body["stream"] is True
    assert request.body["thinking"] == {"type": "adaptive"}
    assert request.body["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}
    assert "sk-ant-test" in request.headers.get("x-api-key", "") + request.headers.get("authorization", "")


def test_thinking_stays_out_of_the_result(serve: Serve) -> None:
    serve(wire.streamed(TEXT, thinking='First a draft: {"questions": [], "instruction": []} ' * 50))
    assert ask()[0] == GOOD


def test_the_schema_asks_for_all_keys_and_nothing_that_the_api_refuses() -> None:
    def check(node: Any) -> None:
        if isinstance(node, dict):
            assert not {"minItems", "maxItems", "minLength", "pattern"} & node.keys()
            if node.get("type") == "object":
                assert node["additionalProperties"] is False
                assert node["required"] == list(node["properties"])
            for child in node.values():
                check(child)

    check(SCHEMA)
    assert set(SCHEMA["required"]) == set(GOOD)


@pytest.mark.parametrize(
    "fault",
    [
        wire.error(429, "rate_limit_error", "slow down", retry_after="0.01"),
        wire.error(500, "api_error", "oops", **SOON),
        wire.error(529, "overloaded_error", "Overloaded", **SOON),
        Reply(b"<html>bad gateway</html>", status=502, headers={"content-type": "text/html", "retry-after-ms": "1"}),
        Reply(drop=True),
    ],
    ids=["429", "500", "529", "502-html", "dropped"],
)
def test_a_fault_before_the_answer_is_retried_and_told(serve: Serve, fault: Reply) -> None:
    server = serve(fault, wire.streamed(TEXT))
    whole, usage, shown = ask()
    assert whole == GOOD
    assert usage == ONE_CALL
    assert len(server.requests) == 2
    assert "claude-test: " in shown


def test_retry_after_is_honoured(serve: Serve) -> None:
    serve(wire.error(429, "rate_limit_error", "slow down", retry_after_ms="400"), wire.streamed(TEXT))
    began = time.monotonic()
    ask()
    assert time.monotonic() - began >= 0.4


@pytest.mark.parametrize(
    "fault",
    [
        wire.torn(TEXT),
        wire.ending_early(TEXT),
        wire.failing_midway(TEXT, "overloaded_error", "Overloaded"),
        Reply(b"event: message_start\ndata: {not json\n\n", headers={"content-type": "text/event-stream"}),
        Reply(b"", headers={"content-type": "text/event-stream"}),
        wire.message(TEXT),  # unstreamed, though a stream was asked for
    ],
    ids=["torn", "ending early", "error event", "malformed event", "empty", "unstreamed"],
)
def test_an_answer_that_breaks_off_is_asked_for_again(serve: Serve, fault: Reply) -> None:
    server = serve(fault, wire.streamed(TEXT))
    whole, usage, shown = ask()
    assert whole == GOOD
    assert usage.calls == 1
    assert len(server.requests) == 2
    assert "broke off" in shown


def test_the_tokens_of_an_answer_that_broke_off_are_counted(serve: Serve) -> None:
    serve(wire.ending_early(TEXT), wire.streamed(TEXT))
    assert ask()[1].input_tokens == 2 * wire.INPUT_TOKENS


def test_answers_that_keep_breaking_off_end_in_an_error(serve: Serve) -> None:
    server = serve(wire.torn(TEXT))
    assert "broke off 3 times" in told()
    assert len(server.requests) == 3


def test_an_error_event_that_no_retry_mends(serve: Serve) -> None:
    server = serve(wire.failing_midway(TEXT, "invalid_request_error", "prompt is too long"))
    assert "prompt is too long" in told()
    assert len(server.requests) == 1


def test_a_slow_answer_is_waited_for(serve: Serve) -> None:
    server = serve(wire.streamed(TEXT, delay=1.0))
    assert ask()[0] == GOOD
    assert len(server.requests) == 1


def test_an_answer_that_never_begins_is_given_up_and_asked_for_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claude, "READ_TIMEOUT", 0.3)
    server = serve(wire.streamed(TEXT, delay=1.5), wire.streamed(TEXT))
    assert ask()[0] == GOOD
    assert len(server.requests) == 2


# What models differ in


NO_ADAPTIVE = wire.error(400, "invalid_request_error", "adaptive thinking is not supported on this model")
NO_THINKING = wire.error(400, "invalid_request_error", "thinking is not supported on this model")
NO_SCHEMA = wire.error(400, "invalid_request_error", "output_config.format: not supported by this model")


def test_a_model_without_adaptive_thinking_thinks_within_a_budget(serve: Serve) -> None:
    server = serve(NO_ADAPTIVE, wire.streamed(TEXT))
    whole, usage, _ = ask()
    assert whole == GOOD
    assert usage == ONE_CALL
    thinking = server.requests[1].body["thinking"]
    assert thinking["type"] == "enabled"
    assert 1024 <= thinking["budget_tokens"] < server.requests[1].body["max_tokens"]


def test_a_model_without_thinking_answers_without(serve: Serve) -> None:
    server = serve(NO_ADAPTIVE, NO_THINKING, wire.streamed(TEXT))
    assert ask()[0] == GOOD
    assert "thinking" not in server.requests[2].body
    assert "output_config" in server.requests[2].body


def test_a_model_without_structured_output_is_made_to_call_a_tool(serve: Serve) -> None:
    server = serve(NO_ADAPTIVE, NO_THINKING, NO_SCHEMA, wire.streamed(TEXT, tool="give_definition"))
    assert ask()[0] == GOOD
    body = server.requests[3].body
    assert "thinking" not in body, "the API refuses thinking beside a forced tool"
    assert "output_config" not in body
    assert body["tools"][0]["input_schema"] == SCHEMA
    assert body["tool_choice"] == {"type": "tool", "name": body["tools"][0]["name"]}


def test_the_second_try_is_asked_in_the_way_that_the_model_takes(serve: Serve) -> None:
    server = serve(NO_ADAPTIVE, wire.streamed("{}"), wire.streamed(TEXT))
    ask()
    assert server.requests[2].body["thinking"]["type"] == "enabled"


def test_a_request_that_is_refused_in_every_way_says_why(serve: Serve) -> None:
    server = serve(wire.error(400, "invalid_request_error", "Your credit balance is too low"))
    assert "400: Your credit balance is too low" in told()
    assert len(server.requests) == 4


# What ends in an error


def test_without_a_key_the_other_ways_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    message = told()
    for says in ("set ANTHROPIC_API_KEY", "--print-prompt", "--from FILE"):
        assert says in message


@pytest.mark.parametrize("key", ["sk-ant\n", "sk-ant-…", "sk ant"])
def test_a_key_that_cannot_be_one(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", key)
    message = told()
    assert "a character that no key has" in message
    assert key not in message


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (wire.error(401, "authentication_error", "invalid x-api-key"), "rejected the key (401: invalid x-api-key)"),
        (wire.error(403, "permission_error", "not for you"), "rejected the key (403: not for you)"),
        (wire.error(404, "not_found_error", "model: claude-test"), "claude-test: no such model for this key"),
        (wire.error(413, "request_too_large", "too large"), "refused the request for claude-test (413: too large)"),
    ],
)
def test_an_error_that_no_retry_mends_is_told_at_once(serve: Serve, reply: Reply, says: str) -> None:
    server = serve(reply)
    message = told()
    assert says in message
    assert "sk-ant-test" not in message
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (wire.error(429, "rate_limit_error", "slow down", **SOON), "still limits the rate after 6 retries (slow down)"),
        (wire.error(529, "overloaded_error", "Overloaded", **SOON), "still fails after 6 retries (529: Overloaded)"),
    ],
)
def test_an_error_that_stays_ends_after_all_retries(serve: Serve, reply: Reply, says: str) -> None:
    server = serve(reply)
    assert says in told()
    assert len(server.requests) == 7


def test_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claude, "MAX_RETRIES", 0)
    message = told()
    assert "cannot be reached at http://127.0.0.1:9" in message
    assert "ANTHROPIC_BASE_URL" in message


def test_a_refusal_says_why_and_what_it_cost(serve: Serve) -> None:
    details = {"type": "refusal", "category": None, "explanation": "It sounded bad."}
    server = serve(wire.streamed("I can't", stop_reason="refusal", stop_details=details))
    message = told()
    assert "refused to write this (It sounded bad.)" in message
    assert str(ONE_CALL) in message
    assert len(server.requests) == 1


def test_an_answer_that_was_cut_off(serve: Serve) -> None:
    serve(wire.streamed(TEXT[:5000], stop_reason="max_tokens"))
    message = told()
    assert f"cut off after {wire.OUTPUT_TOKENS:,} tokens" in message
    assert str(ONE_CALL) in message


# Answers that are no definition


def faulty(**changes: Any) -> str:
    return json.dumps(copy.deepcopy(GOOD) | changes)


@pytest.mark.parametrize(
    ("first", "says"),
    [
        (faulty(questions=GOOD["questions"][:39]), "questions: 39 of them, where 40 are needed"),
        (faulty(examples=GOOD["examples"][:14]), "examples: 14 of them, where 16 are needed"),
        (TEXT[:-300], "holds no complete JSON object"),
        ("I would rather talk about the weather.", "holds no complete JSON object"),
        ("", "is empty"),
    ],
    ids=["39 questions", "14 examples", "malformed", "no JSON", "empty"],
)
def test_a_second_try_is_told_what_was_wrong(serve: Serve, first: str, says: str) -> None:
    server = serve(wire.streamed(first), wire.streamed(TEXT))
    whole, usage, shown = ask()
    assert whole == GOOD
    assert usage == ONE_CALL + ONE_CALL
    assert says in shown
    asked = server.requests[1].body["messages"]
    assert [m["role"] for m in asked] == ["user", "assistant", "user"]
    assert asked[0] == server.requests[0].body["messages"][0]
    assert asked[1]["content"] == (first or "(no answer)")
    assert says in asked[2]["content"]


def test_after_two_unusable_answers_the_last_is_kept(serve: Serve, tmp_path: Path) -> None:
    last = faulty(eval_prompt="{question} {answer}")
    server = serve(wire.streamed(faulty(questions=[])), wire.streamed(last))
    message = told()
    assert "twice" in message
    assert "does not offer REFUSAL" in message
    assert str(ONE_CALL + ONE_CALL) in message
    assert len(server.requests) == 2
    kept = tmp_path / "cache" / "definitions" / "deception.txt"
    assert f"kept in {kept}: mend it and give it with --from" in message
    assert kept.read_text() == last


# The command


def test_the_command_writes_both_halves_and_tells_the_cost(serve: Serve, tmp_path: Path) -> None:
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
    for says in (
        "claude-opus-9",
        f"{estimated_input_tokens('deception', None):,} input tokens",
        "32,000 output tokens",
    ):
        assert says in result.stderr
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


def test_what_was_paid_for_is_kept_when_it_cannot_be_written(serve: Serve, tmp_path: Path) -> None:
    serve(wire.streamed(TEXT))
    (tmp_path / "trait_data_eval").write_text("in the way")
    result = run("deception")
    assert isinstance(result.exception, ArtifactError)
    kept = tmp_path / "cache" / "definitions" / "deception.txt"
    assert f"kept in {kept}" in result.stderr
    assert str(ONE_CALL) in result.stderr
    assert not list(tmp_path.glob("trait_data_extract/*"))
    assert run("deception", "--from", str(kept), "--definitions", "elsewhere").exit_code == 0


@pytest.mark.parametrize("name", ["../evil", "", "a b"])
def test_a_name_that_is_no_file_name(serve: Serve, name: str) -> None:
    server = serve(wire.streamed(TEXT))
    assert isinstance(run(name).exception, ArtifactError)
    assert server.requests == []


def test_ctrl_c_stops_with_130_and_leaves_nothing_behind(serve: Serve, tmp_path: Path) -> None:
    server = serve(wire.streamed(TEXT, delay=60))
    code = "from builder.commands.define import define; define()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "deception", "--definitions", str(tmp_path / "new")],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not server.requests and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130, shown
    assert "Stopped. Nothing was written." in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "new").exists()


# Copy and paste


def test_the_prompt_is_printed_alone_and_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    result = run("sycophancy", "--print-prompt", "--description", 'says "yes" & <amen> {{ trait }}')
    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout == define_prompt("sycophancy", 'says "yes" & <amen> {{ trait }}', pasted=True) + "\n"
    assert 'says "yes" & <amen> {{ trait }}' in result.stdout


def test_the_prompt_says_all_that_is_checked() -> None:
    prompt = define_prompt("sycophancy", None, pasted=True)
    for says in (
        "sycophancy",
        "exactly 5",
        "exactly 40",
        "exactly 16",
        "{question}",
        "{answer}",
        "REFUSAL",
        "0 to 100",
    ):
        assert says in prompt
    for key in GOOD:
        assert f'"{key}"' in prompt, "the JSON's form is shown"
    assert "no description" in prompt
    assert "{%" not in prompt
    assert "{{" not in prompt


def test_claude_is_not_told_a_form_that_the_schema_gives_already() -> None:
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
    ("text", "says"),
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
def test_a_pasted_answer_that_is_of_no_use_says_why(text: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "answer.txt").write_bytes(text)
    result = run("deception", "--from", "answer.txt")
    assert isinstance(result.exception, ArtifactError), result.output
    assert says in str(result.exception)
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
