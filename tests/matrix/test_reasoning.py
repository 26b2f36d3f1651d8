"""Answers that a reasoning parser takes apart: thoughts and answer are one run of tokens, and scored as that."""

from typing import Any

import numpy as np
import pytest

from tests.integration.test_parity import MIN_CORRELATION
from tests.support.answers import alike, headers, own_part, post, told
from tests.support.cases import CHAT, CONVERSATION, RESPONSES
from tests.support.reference import Reference
from tests.support.serving import MODEL_NAME, Server
from traitwatch.vectors import Float32Array

pytestmark = pytest.mark.engine

# The words by which granite's parser knows thoughts; the model would not say them unasked.
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


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body", "says"), BODIES)
def test_all_of_the_answer_but_its_scores_is_vllms_own(
    path: str, body: dict[str, Any], says: str, stream: bool, eager: Server, plain: Server
) -> None:
    ours, theirs = alike(
        lambda: post(eager, path, body, stream=stream, traits=True), lambda: post(plain, path, body, stream=stream)
    )
    assert says in theirs.text
    assert headers(ours) == headers(theirs)
    assert own_part(ours) == own_part(theirs)


def test_thoughts_and_answer_are_scored_as_one(
    eager: Server, reference: Reference, directions: dict[str, tuple[int, Float32Array]]
) -> None:
    """The thoughts that vLLM leaves out too: its answer tells fewer words than tokens that it generated."""
    wanted = {"include": sorted(directions)}
    (whole,) = told(post(eager, *_body("chat"), return_token_ids=True, traits=wanted)).values()
    expected = reference.projections(whole.prompt, whole.tokens, directions)
    answers = [whole]
    for name in ("chat", "chat, thoughts left out", "responses"):
        for stream in (False, True):
            answers += told(post(eager, *_body(name), stream=stream, traits=wanted)).values()
    assert len(answers) == 1 + 2 * len(BODIES)
    for one in answers:
        assert one.complete is True
        for name, states in expected.items():
            scores = one.traits[name]
            assert len(scores["tokens"]) == len(whole.tokens)
            got = np.array([scores["prompt_last"], *scores["tokens"][:-1]])
            assert np.corrcoef(got, states)[0, 1] >= MIN_CORRELATION, name


def _body(name: str) -> tuple[str, dict[str, Any]]:
    path, body, _ = next(param.values for param in BODIES if param.id == name)
    return path, body
