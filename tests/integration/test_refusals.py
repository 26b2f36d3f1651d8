"""Malformed requests are refused before the model generates a token; unscorable ones are refused or counted."""

import time
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.support.answers import OURS, post
from tests.support.cases import CASES, CHAT, COMPLETIONS, CONVERSATION, ENDPOINTS, MALFORMED, MESSAGES, RESPONSES, bare
from tests.support.serving import MODEL_NAME, Server

pytestmark = pytest.mark.engine

BEAM = {"use_beam_search": True, "n": 2, "temperature": 0.0, "max_tokens": 8}
BACKGROUND = {"model": MODEL_NAME, "input": "Why?", "background": True, "temperature": 0.0, "max_output_tokens": 8}
UNSCORABLE = [
    pytest.param(CHAT, {"model": MODEL_NAME, "messages": CONVERSATION, **BEAM}, id="chat, beam search"),
    pytest.param(COMPLETIONS, {"model": MODEL_NAME, "prompt": "The sea", **BEAM}, id="completions, beam search"),
]
UNATTACHED = [*UNSCORABLE, pytest.param(RESPONSES, BACKGROUND, id="responses, in the background")]


def _computed(server: Server) -> float:
    return server.metric("vllm:prompt_tokens_total") + server.metric("vllm:generation_tokens_total")


@pytest.mark.parametrize("path", ENDPOINTS)
def test_malformed_traits_are_refused_before_a_token_is_generated(path: str, scored: Server) -> None:
    before = _computed(scored)
    for traits, message in MALFORMED:
        for stream in (False, True):
            response = post(scored, path, bare(path), traits=traits, stream=stream)
            assert response.status_code == 400, traits
            assert response.headers["content-type"] == "application/json"
            error = response.json()["error"]
            assert error.keys() == {"message", "type", "param", "code"}
            assert message in error["message"], traits
            assert (error["param"], error["code"]) == ("traits", 400)
    assert _computed(scored) == before
    # The metrics do count the tokens of a request that is not refused.
    assert post(scored, path, bare(path)).status_code == 200
    assert _computed(scored) > before


def test_the_openai_sdk_raises_a_bad_request(scored: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="no trait 'kindness'") as refused:
        scored.client().chat.completions.create(
            model=MODEL_NAME,
            messages=[{"role": "user", "content": "Hello"}],
            extra_body={"traits": {"include": ["kindness"]}},
        )
    assert refused.value.param == "traits"
    with pytest.raises(openai.BadRequestError, match="traits must be"):
        scored.client().responses.create(model=MODEL_NAME, input="Hello", extra_body={"traits": "all"})


def test_the_anthropic_sdk_raises_a_bad_request(scored: Server) -> None:
    client = anthropic.Anthropic(base_url=scored.url, api_key="none", max_retries=0)
    with pytest.raises(anthropic.BadRequestError, match="no trait 'kindness'") as refused:
        client.messages.create(
            model=MODEL_NAME,
            max_tokens=8,
            messages=[{"role": "user", "content": "Hello"}],
            extra_body={"traits": {"include": ["kindness"]}},
        )
    assert refused.value.type == "invalid_request_error"
    assert isinstance(refused.value.body, dict)
    assert refused.value.body["type"] == "error"


@pytest.mark.parametrize("traits", [True, {"include": ["probe1"]}, {"tokens": False}])
@pytest.mark.parametrize(("path", "body"), UNATTACHED)
def test_scores_are_refused_where_a_response_cannot_carry_them(
    path: str, body: dict[str, Any], traits: Any, scored: Server
) -> None:
    before = _computed(scored)
    response = post(scored, path, body, traits=traits)
    assert response.status_code == 400
    assert "carries no scores" in response.json()["error"]["message"]
    assert _computed(scored) == before


@pytest.mark.parametrize("traits", [None, False])
@pytest.mark.parametrize(("path", "body"), UNSCORABLE)
def test_unscorable_requests_are_answered_without_scores_and_counted(
    path: str, body: dict[str, Any], traits: Any, scored: Server
) -> None:
    responses = scored.metric("traitwatch_responses_incomplete_total", reason="not_scorable")
    tokens = scored.metric("traitwatch_tokens_unscored_total", reason="not_scorable")
    response = post(scored, path, body, **({} if traits is None else {"traits": traits}))
    assert response.status_code == 200, response.text
    assert not any(f'"{name}"' in response.text for name in OURS)
    assert scored.metric("traitwatch_responses_incomplete_total", reason="not_scorable") == responses + 1
    assert scored.metric("traitwatch_tokens_unscored_total", reason="not_scorable") > tokens


def test_a_background_response_is_vllms_own_and_is_recorded(scored: Server) -> None:
    before = scored.metric("traitwatch_tokens_scored_total")
    queued = post(scored, RESPONSES, BACKGROUND).json()
    assert queued["status"] == "queued"
    deadline = time.monotonic() + 30
    response = queued
    while response["status"] in ("queued", "in_progress"):
        response = httpx.get(f"{scored.url}{RESPONSES}/{queued['id']}", timeout=60).json()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert response["usage"]["output_tokens"] == 8
    assert response.keys().isdisjoint(OURS)
    while scored.metric("traitwatch_tokens_scored_total") != before + 7:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_traits_elsewhere_in_a_request_are_ignored(path: str, scored: Server, unscored: Server) -> None:
    """The word stands in a message, and the field in an object inside the body."""
    body = {**CASES["messages"].body, "messages": [{"role": "user", "content": '{"traits": "x", "background": true}'}]}
    ours, theirs = (post(server, path, body, metadata={"traits": "yes"}) for server in (scored, unscored))
    assert ours.status_code == theirs.status_code == 200
    assert ours.json()["usage"] == theirs.json()["usage"]


def test_a_server_without_the_option_loads_and_unloads_nothing(scored: Server) -> None:
    for method, body in (("POST", {"path": "probe1_response_avg_diff.pt"}), ("DELETE", None)):
        response = httpx.request(method, f"{scored.url}/v1/traits/probe1", json=body, timeout=60)
        assert response.status_code == 403
        assert "--traits-admin" in response.json()["error"]["message"]
    assert len(httpx.get(f"{scored.url}/v1/traits", timeout=60).json()["data"]) == 3
