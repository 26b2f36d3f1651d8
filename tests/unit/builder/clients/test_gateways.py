"""Servers with habits of their own, over their wire formats and the real SDK: Azure, gateways, Google, Mistral."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.judges import PROMPT, judge_at, questions, scores, with_log_probabilities
from tests.support.trait import nothing
from tests.support.wire.http import Reply, Request, wire_server
from tests.support.wire.openai import completion, error, first_token, is_check, is_probe, last_message, sane, spelled
from traitwatch.errors import NetworkError
from traitwatch_builder.answering.endpoint import EndpointAnswers
from traitwatch_builder.answering.source import Answer, ChatPrompt, Sampling
from traitwatch_builder.clients.address import key_for, server_url
from traitwatch_builder.clients.completion import Completion
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.judging.openai_judge import OpenAIJudge

pytestmark = pytest.mark.usefixtures("without_openai")

# The filter's error, as Azure's reference shows it.
FILTERED: dict[str, Any] = {
    "error": {
        "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": {"hate": {"filtered": True, "severity": "high"}},
        },
    }
}


def azure(request: Request) -> Reply:
    """Answer as Azure does: at a deployment's path, with a version in the query and a key in `api-key`."""
    path, _, query = request.path.partition("?")
    if path != "/openai/deployments/judge/chat/completions" or query != "api-version=2024-10-21":
        return Reply({"error": {"code": "404", "message": "Resource not found"}}, status=404)
    if "authorization" in request.headers or request.headers.get("api-key") != "azure-key":
        return Reply(
            {"error": {"code": "401", "message": "Access denied due to invalid subscription key."}}, status=401
        )
    if is_probe(request):
        return spelled("85")
    if is_check(request):
        return sane(request)
    if "question 0" in last_message(request):
        return Reply(FILTERED, status=400)
    if "question 1" in last_message(request):
        return completion("", tokens=[], finish_reason="content_filter")
    return first_token({"60": 1.0})


@pytest.mark.parametrize("end", ["", "/", "/chat/completions"])
def test_azure_judges_and_its_content_filter_is_a_refusal(
    end: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "azure-key")
    with wire_server(azure) as server:
        url = f"{server.url}/openai/deployments/judge{end}?api-version=2024-10-21"
        judge = OpenAIJudge(PROMPT, model="judge", base_url=url, retries=1)
        assert scores(judge, questions(4)) == [None, None, 60.0, 60.0]
    assert "rejected 1 of 4 requests" in caplog.text
    assert "content management policy" in caplog.text


def test_a_filter_that_refuses_every_answer_is_no_fault_of_the_judge() -> None:
    refuse = with_log_probabilities(lambda _: Reply(FILTERED, status=400))
    with wire_server(refuse) as server:
        assert scores(judge_at(server), questions(25)) == [None] * 25


def test_the_version_of_azure_s_api_is_a_part_of_the_judge() -> None:
    one, other = (
        OpenAIJudge(PROMPT, base_url=f"https://r.openai.azure.com/openai/deployments/d?api-version={version}")
        for version in ("2024-10-21", "2025-01-01")
    )
    (question,) = questions(1)
    assert one.identity(question) != other.identity(question)


def test_azure_answers_too() -> None:
    def respond(request: Request) -> Reply:
        if request.body is None:
            return Reply({"error": {"code": "404", "message": "Resource not found"}}, status=404)
        assert request.headers["api-key"] == "fleet"
        return completion("yes")

    with wire_server(respond) as server:
        url = f"{server.url}/openai/deployments/d?api-version=1"
        source = EndpointAnswers([url], Sampling(1.0, 1.0, 9, 0), "d", "fleet", retries=0)
        prompt = ChatPrompt([{"role": "user", "content": "?"}], [1])
        assert list(source.answer([prompt], nothing)) == [(0, Answer("yes", True))]


# --- addresses and keys


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://host:8000", "http://host:8000/v1"),
        (" http://host:8000/ \n", "http://host:8000/v1"),
        ("HTTP://Host:80/v1/", "http://host/v1"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1"),
        ("https://host/v1/chat/completions", "https://host/v1"),
        ("https://host/v1/models/", "https://host/v1"),
        (
            "https://generativelanguage.googleapis.com/v1beta/openai/",
            "https://generativelanguage.googleapis.com/v1beta/openai",
        ),
        ("https://r.openai.azure.com/openai/v1/", "https://r.openai.azure.com/openai/v1"),
        ("https://h/d?api-version=2#x", "https://h/d?api-version=2"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
        ("", "https://api.openai.com/v1"),
    ],
)
def test_an_address_is_completed(given: str, url: str) -> None:
    assert server_url(given, "--judge-base-url") == url
    assert server_url(url, "--judge-base-url") == url


@pytest.mark.parametrize(
    "url", ["foo", "host:8000", "ftp://h", "http://", "http://[::1", "http://h:99999", "http://h/%00", "http://a b/"]
)
def test_what_is_no_address_is_named_with_its_origin(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NetworkError, match=r"^--judge-base-url: "):
        server_url(url, "--judge-base-url")
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(NetworkError, match=r"^OPENAI_BASE_URL: "):
        server_url(None, "--judge-base-url")


def test_a_password_in_an_address_is_in_no_message() -> None:
    judge = OpenAIJudge(PROMPT, base_url="http://me:secret@127.0.0.1:9/v1", retries=0)
    with pytest.raises(PipelineError) as caught:
        scores(judge, questions(1))
    assert "http://***@127.0.0.1:9/v1 cannot be reached" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_key_is_sent_without_white_space_and_refused_with_other_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " sk-1\n")
    assert key_for("http://host/v1", None, "--key") == "sk-1"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-ö")
    with pytest.raises(NetworkError, match=r"^OPENAI_API_KEY has a character that no key has") as caught:
        key_for("http://host/v1", None, "--key")
    assert "sk-ö" not in str(caught.value)
    with pytest.raises(NetworkError, match=r"^--key has a character"):
        key_for("http://host/v1", "a b", "--key")


def test_a_header_of_the_environment_that_cannot_be_sent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "orgä")
    with pytest.raises(NetworkError, match=r"^OPENAI_ORG_ID"):
        scores(OpenAIJudge(PROMPT, base_url="http://127.0.0.1:9"), questions(1))


def test_further_headers_reach_a_gateway_and_route_by_their_names() -> None:
    def identity(**headers: str) -> Mapping[str, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return OpenAIJudge(PROMPT, api_key="k", headers=named).identity(questions(1)[0])

    with wire_server(with_log_probabilities(lambda _: first_token({"60": 1.0}))) as server:
        scores(judge_at(server, headers={"X-Provider": "mine"}), questions(1))
        assert {request.headers["x-provider"] for request in server.requests} == {"mine"}
    assert identity(x_provider="a") != identity(x_provider="b") != identity()
    assert identity(X_Api_Key="1") == identity(X_Api_Key="2") == identity()


# --- forms of replies and errors


@pytest.mark.parametrize(
    "content",
    [
        "85",
        [{"type": "text", "text": "85"}],
        [{"type": "thinking", "thinking": [{"type": "text", "text": "7?"}]}, {"type": "text", "text": "85"}],
    ],
)
def test_a_content_in_parts_is_the_text_of_its_parts(content: Any) -> None:
    reply = Completion.model_validate({"choices": [{"message": {"content": content}}]})
    assert reply.choices[0].text == "85"


@pytest.mark.parametrize(
    "logprobs",
    [{"content": [{"token": "85", "logprob": None}]}, {"tokens": ["85"], "top_logprobs": [{"85": -0.1}]}, 5, []],
)
def test_log_probabilities_of_another_form_are_none(logprobs: Any) -> None:
    choice = {"message": {"content": "85"}, "logprobs": logprobs, "finish_reason": 3}
    reply = Completion.model_validate({"choices": [choice], "usage": "many"})
    assert not (reply.choices[0].logprobs and reply.choices[0].logprobs.content)
    assert reply.choices[0].finish_reason is None
    assert reply.usage is None


def test_an_error_in_googles_form_is_understood() -> None:
    def respond(request: Request) -> Reply:
        if "seed" in request.body or "logprobs" in request.body:
            message = 'Invalid JSON payload received. Unknown name "logprobs", "seed": Cannot find field.'
            return Reply([{"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}], status=400)
        return completion("85" if is_probe(request) else '{"score": 60, "refusal": false}')

    with wire_server(lambda request: sane(request) if is_check(request) else respond(request)) as server:
        assert scores(judge_at(server), questions(1)) == [60.0]


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"[]",
            b"null",
            b'"x"',
            b"[" * 5000,
            b"\xff\xfe",
            b'{"choices": []}',
            b'{"choices": [null]}',
            b"data: {}\n\n",
        ),
        *(
            b'{"choices": [{"message": null}]}',
            b'{"choices": [{"message": {"content": 85}}]}',
            b'{"error": {"message": "x"}}',
        ),
    ],
)
def test_a_reply_without_a_choice_is_quoted(body: bytes) -> None:
    with (
        wire_server(lambda _: Reply(body)) as server,
        pytest.raises(PipelineError, match="answers, but not with chat completions"),
    ):
        scores(judge_at(server), questions(1))


@pytest.mark.parametrize("wait", ["nan", "inf", "Thu, 99 Foo 9999", "-1", "\u00b2"])
def test_an_odd_retry_after_is_no_wait(wait: str) -> None:
    seen: list[Request] = []

    def respond(request: Request) -> Reply:
        seen.append(request)
        return error(429, "slow down", retry_after=wait) if len(seen) == 1 else first_token({"60": 1.0})

    with wire_server(with_log_probabilities(respond)) as server:
        assert scores(judge_at(server), questions(1)) == [60.0]
