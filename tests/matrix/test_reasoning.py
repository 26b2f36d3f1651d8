"""A server that scores only on request, with a reasoning parser. Its default is `off`, and it scores thoughts too.

A reasoning parser splits an answer. Thoughts and answer are one run of tokens, and are scored as one.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.answers import OURS, alike, headers, own_part, post, raw, received_choices
from tests.support.cases import CASES, CHAT, CONVERSATION, GRAMMAR_OPTIONS, RESPONSES
from tests.support.random_llama import LAYER_OPTIONS, Oracle
from tests.support.serving import MODEL_NAME, Server, plain_vllm, serving_at_once, traitwatch

pytestmark = pytest.mark.engine

OPTIONS = [
    *("--dtype", "float32", "--enforce-eager", "--max-num-batched-tokens", "128"),
    *("--reasoning-parser", "granite", *GRAMMAR_OPTIONS),
]
# The words by which granite's parser finds thoughts. The model does not write these words by itself.
THOUGHT = {"regex": "Here is my thought process: [a-z ]{30,60}Here is my response: [a-z ]{30,60}[.]"}
CHAT_BODY = {"model": MODEL_NAME, "messages": CONVERSATION, "temperature": 0.0, "structured_outputs": THOUGHT}
RESPONSES_BODY = {
    "model": MODEL_NAME,
    "instructions": CONVERSATION[0]["content"],
    "input": CONVERSATION[1]["content"],
    "temperature": 0.0,
    "structured_outputs": THOUGHT,
    "max_output_tokens": 200,
}
BODIES = [
    pytest.param(CHAT, {**CHAT_BODY, "max_tokens": 200}, '"reasoning":"', id="chat"),
    pytest.param(CHAT, {**CHAT_BODY, "max_tokens": 200, "include_reasoning": False}, "", id="chat, thoughts left out"),
    pytest.param(RESPONSES, RESPONSES_BODY, "reasoning", id="responses"),
]


@pytest.fixture(scope="module")
def servers(model: Path, probes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    directory = tmp_path_factory.mktemp("reasoning")
    command = traitwatch("serve", model, "--traits", probes, *LAYER_OPTIONS, "--traits-default", "off", *OPTIONS)
    theirs = plain_vllm(model, *OPTIONS)
    with serving_at_once((command, directory / "ours.log"), (theirs, directory / "theirs.log")) as both:
        yield both


@pytest.fixture(scope="module")
def quiet(servers: list[Server]) -> Server:
    """Our server, which scores only on request."""
    return servers[0]


@pytest.fixture(scope="module")
def plain(servers: list[Server]) -> Server:
    """vLLM's own server on the same model."""
    return servers[1]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body", "expected_text"), BODIES)
def test_all_of_the_answer_but_its_scores_is_vllms_own(
    path: str, body: dict[str, Any], expected_text: str, stream: bool, quiet: Server, plain: Server
) -> None:
    ours, theirs = alike(
        lambda: post(quiet, path, body, stream=stream, traits=True), lambda: post(plain, path, body, stream=stream)
    )
    assert expected_text in theirs.text
    assert headers(ours) == headers(theirs)
    assert own_part(ours) == own_part(theirs)


def test_thoughts_and_answer_are_scored_as_one(quiet: Server, oracle: Oracle) -> None:
    """Also the thoughts that vLLM leaves out are scored: the answer has fewer words than generated tokens."""
    (whole,) = received_choices(post(quiet, *_body("chat"), return_token_ids=True, traits=True)).values()
    answers = [whole]
    for name in ("chat", "chat, thoughts left out", "responses"):
        for stream in (False, True):
            answers += received_choices(post(quiet, *_body(name), stream=stream, traits=True)).values()
    assert len(answers) == 1 + 2 * len(BODIES)
    for one in answers:
        assert one.complete is True
        oracle.check(one.traits, whole.prompt, whole.tokens)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["chat", "completions", "responses", "messages", "batch"])
def test_without_traits_the_answer_is_vllms_byte_for_byte(
    name: str, stream: bool, quiet: Server, plain: Server
) -> None:
    """The default is `off` and the request has no `traits` field."""
    case = CASES[name]
    fields = {"stream": True} if stream and case.stream is not None else {}
    ours, theirs = alike(
        lambda: post(quiet, case.path, case.body, **fields), lambda: post(plain, case.path, case.body, **fields), raw
    )
    assert raw(ours) == raw(theirs)
    assert headers(ours) == headers(theirs)
    assert not any(f'"{field}"' in ours.text for field in OURS)


def _body(name: str) -> tuple[str, dict[str, Any]]:
    path, body, _ = next(param.values for param in BODIES if param.id == name)
    return path, body
