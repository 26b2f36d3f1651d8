"""`Claude` gets one structured answer through the real SDK, and reports each failure in plain words."""

import io
import json
import time
from typing import Any

import pytest
from rich.console import Console

from tests.support.claude import GOOD, NO_ADAPTIVE, ONE_CALL, SOON, TEXT, Serve
from tests.support.wire import anthropic as wire
from tests.support.wire.http import Reply
from traitwatch.errors import NetworkError
from traitwatch_builder.clients import claude
from traitwatch_builder.clients.claude import Claude
from traitwatch_builder.clients.usage import Usage
from traitwatch_builder.definitions.define import SCHEMA
from traitwatch_builder.errors import PipelineError

pytestmark = pytest.mark.usefixtures("apart")

MESSAGES = [{"role": "user", "content": "Define deception."}]


def ask(model: str = "claude-test") -> tuple[Any, Usage, str]:
    """Ask for a definition; return the parsed answer, its cost and the text on the console."""
    output = io.StringIO()
    client = Claude(model, SCHEMA, Console(file=output, width=1000))
    return json.loads(client.ask(MESSAGES)), client.usage, output.getvalue()


def error_message() -> str:
    with pytest.raises(PipelineError) as caught:
        ask()
    return str(caught.value)


# The answer


def test_a_streamed_answer_is_returned_whole_at_its_price(serve: Serve) -> None:
    server = serve(wire.streamed(TEXT))
    answer, usage, _ = ask("claude-sonnet-9")
    assert answer == GOOD
    assert usage == ONE_CALL
    (request,) = server.requests
    assert request.path == "/v1/messages"
    assert request.body["model"] == "claude-sonnet-9"
    assert request.body["messages"] == MESSAGES
    assert request.body["stream"] is True
    assert request.body["thinking"] == {"type": "adaptive"}
    assert request.body["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}
    assert "sk-ant-test" in request.headers.get("x-api-key", "") + request.headers.get("authorization", "")


def test_thinking_stays_out_of_the_result(serve: Serve) -> None:
    serve(wire.streamed(TEXT, thinking='First a draft: {"questions": [], "instruction": []} ' * 50))
    assert ask()[0] == GOOD


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
def test_a_fault_before_the_answer_is_retried_and_reported(serve: Serve, fault: Reply) -> None:
    server = serve(fault, wire.streamed(TEXT))
    answer, usage, printed = ask()
    assert answer == GOOD
    assert usage == ONE_CALL
    assert len(server.requests) == 2
    assert "claude-test: " in printed


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
        wire.message(TEXT),  # unstreamed, although the request asked for a stream
    ],
    ids=["torn", "ending early", "error event", "malformed event", "empty", "unstreamed"],
)
def test_an_answer_that_breaks_off_is_asked_for_again(serve: Serve, fault: Reply) -> None:
    server = serve(fault, wire.streamed(TEXT))
    answer, usage, printed = ask()
    assert answer == GOOD
    assert usage.calls == 1
    assert len(server.requests) == 2
    assert "broke off" in printed


def test_the_tokens_of_an_answer_that_broke_off_are_counted(serve: Serve) -> None:
    serve(wire.ending_early(TEXT), wire.streamed(TEXT))
    assert ask()[1].input_tokens == 2 * wire.INPUT_TOKENS


def test_answers_that_keep_breaking_off_end_in_an_error(serve: Serve) -> None:
    server = serve(wire.torn(TEXT))
    assert "broke off 3 times" in error_message()
    assert len(server.requests) == 3


def test_an_error_event_that_no_retry_mends(serve: Serve) -> None:
    server = serve(wire.failing_midway(TEXT, "invalid_request_error", "prompt is too long"))
    assert "prompt is too long" in error_message()
    assert len(server.requests) == 1


def test_a_slow_answer_is_waited_for(serve: Serve) -> None:
    server = serve(wire.streamed(TEXT, delay=1.0))
    assert ask()[0] == GOOD
    assert len(server.requests) == 1


def test_an_answer_that_never_begins_is_given_up_and_asked_for_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claude, "READ_TIMEOUT", 3.0)
    server = serve(wire.streamed(TEXT, delay=30.0), wire.streamed(TEXT))
    assert ask()[0] == GOOD
    assert len(server.requests) == 2


# Models that lack a feature


NO_THINKING = wire.error(400, "invalid_request_error", "thinking is not supported on this model")

NO_SCHEMA = wire.error(400, "invalid_request_error", "output_config.format: not supported by this model")


def test_a_model_without_adaptive_thinking_thinks_within_a_budget(serve: Serve) -> None:
    server = serve(NO_ADAPTIVE, wire.streamed(TEXT))
    answer, usage, _ = ask()
    assert answer == GOOD
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


def test_a_request_that_is_refused_in_every_way_says_why(serve: Serve) -> None:
    server = serve(wire.error(400, "invalid_request_error", "Your credit balance is too low"))
    assert "400: Your credit balance is too low" in error_message()
    assert len(server.requests) == 4


# What ends in an error


def test_without_a_key_the_error_names_the_other_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    message = error_message()
    for part in ("set ANTHROPIC_API_KEY", "--print-prompt", "--from FILE"):
        assert part in message


@pytest.mark.parametrize("name", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
@pytest.mark.parametrize("key", ["sk-ant\nx", "sk-ant-…", "sk ant"])
def test_a_key_that_cannot_be_one(monkeypatch: pytest.MonkeyPatch, name: str, key: str) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.setenv(name, key)
    with pytest.raises(NetworkError, match=f"{name} has a character that no key has") as caught:
        ask()
    assert key not in str(caught.value)


def test_white_space_around_a_key_is_no_part_of_it(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(wire.streamed(TEXT))
    monkeypatch.setenv("ANTHROPIC_API_KEY", " sk-ant-test\n")
    ask()
    headers = server.requests[0].headers
    assert headers.get("x-api-key", headers.get("authorization")) in ("sk-ant-test", "Bearer sk-ant-test")


def test_a_key_of_white_space_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", " \n")
    assert "No Anthropic key" in error_message()


@pytest.mark.parametrize(
    ("name", "value"),
    [("ANTHROPIC_BASE_URL", "foo"), ("ANTHROPIC_BASE_URL", "http://[::1"), ("ANTHROPIC_CUSTOM_HEADERS", "a: é")],
)
def test_an_environment_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(NetworkError, match=f"^{name}"):
        ask()


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (wire.error(401, "authentication_error", "invalid x-api-key"), "rejected the key (401: invalid x-api-key)"),
        (wire.error(403, "permission_error", "not for you"), "rejected the key (403: not for you)"),
        (wire.error(404, "not_found_error", "model: claude-test"), "claude-test: no such model for this key"),
        (wire.error(413, "request_too_large", "too large"), "refused the request for claude-test (413: too large)"),
    ],
)
def test_an_error_that_no_retry_mends_is_raised_at_once(serve: Serve, reply: Reply, expected: str) -> None:
    server = serve(reply)
    message = error_message()
    assert expected in message
    assert "sk-ant-test" not in message
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (wire.error(429, "rate_limit_error", "slow down", **SOON), "still limits the rate after 6 retries (slow down)"),
        (wire.error(529, "overloaded_error", "Overloaded", **SOON), "still fails after 6 retries (529: Overloaded)"),
    ],
)
def test_an_error_that_stays_ends_after_all_retries(serve: Serve, reply: Reply, expected: str) -> None:
    server = serve(reply)
    assert expected in error_message()
    assert len(server.requests) == 7


def test_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claude, "MAX_RETRIES", 0)
    message = error_message()
    assert "cannot be reached at http://127.0.0.1:9" in message
    assert "ANTHROPIC_BASE_URL" in message


def test_a_refusal_says_why_and_what_it_cost(serve: Serve) -> None:
    details = {"type": "refusal", "category": None, "explanation": "It sounded bad."}
    server = serve(wire.streamed("I can't", stop_reason="refusal", stop_details=details))
    message = error_message()
    assert "refused to write this (It sounded bad.)" in message
    assert str(ONE_CALL) in message
    assert len(server.requests) == 1


def test_an_answer_that_was_cut_off(serve: Serve) -> None:
    serve(wire.streamed(TEXT[:5000], stop_reason="max_tokens"))
    message = error_message()
    assert f"cut off after {wire.OUTPUT_TOKENS:,} tokens" in message
    assert str(ONE_CALL) in message
