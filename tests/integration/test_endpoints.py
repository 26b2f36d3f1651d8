"""Every endpoint adds the scores of its own tokens to each choice, and leaves the rest of vLLM's answer unchanged.

The server computes in float32: a row of another token, choice or request is wrong by hundreds of times the tolerance.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
import pytest

from tests.support.answers import STREAMS, ReceivedChoice, alike, headers, own_part, post, received_choices
from tests.support.cases import CASES, CHAT, COMPLETIONS, Case
from tests.support.random_llama import Oracle
from tests.support.serving import MODEL_NAME, Server

pytestmark = pytest.mark.engine

# Two runs of a request differ by the order of float32 sums, and by the rounding to four decimals.
NEAR = 1e-3

CASES_AND_STREAMS = [
    pytest.param(case, stream, id=f"{name}{', streamed' if stream else ''}")
    for name, case in CASES.items()
    for stream in (False, True)
    if not (stream and case.stream is None)
]


@pytest.mark.parametrize(("case", "stream"), CASES_AND_STREAMS)
def test_all_of_an_answer_but_its_scores_is_vllms_own(
    case: Case, stream: bool, scored: Server, unscored: Server
) -> None:
    fields = {"stream": True, **(case.stream or {})} if stream else {}
    ours, theirs = alike(
        lambda: post(scored, case.path, case.body, **fields), lambda: post(unscored, case.path, case.body, **fields)
    )
    assert ours.status_code == theirs.status_code == 200, theirs.text
    assert headers(ours) == headers(theirs)
    assert own_part(ours) == own_part(theirs)
    assert case.expected_text in theirs.text
    assert all(one.complete is True and one.traits for one in received_choices(ours).values())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_choice_has_the_scores_of_its_own_tokens(case: Case, scored: Server, oracle: Oracle) -> None:
    whole = received_choices(post(scored, case.path, case.body, **case.token_fields))
    for answer, one in _with_tokens(whole, case, scored).items():
        oracle.check(one.traits, one.prompt, one.tokens)
        assert one.complete is True, answer
        for name, scores in one.traits.items():
            states = scores["tokens"][:-1]
            assert scores["mean"] == (pytest.approx(sum(states) / len(states), abs=NEAR) if states else None), name
    if case.stream is None:
        return
    streamed = received_choices(post(scored, case.path, case.body, **case.token_fields, stream=True, **case.stream))
    assert streamed.keys() == whole.keys()
    for answer, one in _with_tokens(streamed, case, scored).items():
        oracle.check(one.traits, one.prompt, one.tokens)
        assert one.complete is True, answer
        assert one.traits == {name: _near(scores) for name, scores in whole[answer].traits.items()}, answer


@pytest.mark.parametrize("name", ["chat", "chat, three choices", "completions, prompts and choices"])
def test_in_a_stream_a_projection_comes_one_event_after_its_token(name: str, scored: Server) -> None:
    """Each event has the scores of all tokens in the earlier events of the choice."""
    case = CASES[name]
    more = {"return_token_ids": True, "max_tokens": 100, "ignore_eos": True}
    for _ in range(STREAMS):
        streamed = received_choices(post(scored, case.path, case.body, stream=True, **more))
        if all(len(one.behind) > 20 and not any(one.behind) for one in streamed.values()):
            break
    assert all(len(one.behind) > 20 for one in streamed.values())
    assert {answer: max(one.behind) for answer, one in streamed.items()} == dict.fromkeys(streamed, 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "name",
    ["chat", "chat, three choices", "completions, prompts and choices", "completions, echo", "batch", "responses"],
)
def test_the_prompt_is_scored_on_request(name: str, stream: bool, scored: Server, oracle: Oracle) -> None:
    case = CASES[name]
    fields = {"stream": True} if stream and case.stream is not None else {}
    wanted = {"include": ["probe1", "probe4"], "prompt": True}
    choices = received_choices(post(scored, case.path, case.body, traits=wanted, **case.token_fields, **fields))
    for one in _with_tokens(choices, case, scored).values():
        expected = oracle.projections(one.prompt)
        assert list(one.traits) == ["probe1", "probe4"]
        for probe, scores in one.traits.items():
            assert scores["prompt_tokens"] == pytest.approx(expected[probe].tolist(), abs=NEAR), probe
            assert scores["prompt_tokens"][-1] == scores["prompt_last"]
            assert len(scores["tokens"]) == len(one.tokens)


def test_a_long_prompt_is_scored_whole_although_the_cache_holds_it(scored: Server, oracle: Oracle) -> None:
    """vLLM prefills the prompt in chunks. The second time, vLLM could take most of the prompt from its prefix cache."""
    body = {"model": MODEL_NAME, "prompt": "It rained. " * 60, "max_tokens": 4, "return_token_ids": True}
    for _ in range(2):
        answer = post(scored, COMPLETIONS, body, traits={"prompt": True}).json()
        choice = answer["choices"][0]
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        assert choice["traits_complete"] is True
        for probe, expected in oracle.projections(choice["prompt_token_ids"]).items():
            assert choice["traits"][probe]["prompt_tokens"] == pytest.approx(expected.tolist(), abs=NEAR), probe
    from_cache = post(scored, COMPLETIONS, body).json()
    assert from_cache["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    choice = from_cache["choices"][0]
    oracle.check(choice["traits"], choice["prompt_token_ids"], choice["token_ids"])


def test_comments_and_the_end_mark_pass_untouched(scored: Server, oracle: Oracle) -> None:
    """While the engine stands still, vLLM keeps the connection alive with comments."""
    body = {**CASES["completions"].body, "ignore_eos": True, "return_token_ids": True, "stream": True}
    with (
        _standing_still(scored) as go_on,
        httpx.stream("POST", f"{scored.url}{COMPLETIONS}", json=body, timeout=60) as response,
    ):
        chunks = response.iter_bytes()
        received = next(chunks)
        assert received.startswith(b": keep-alive\n\n")
        go_on()
        received += b"".join(chunks)
    assert received.endswith(b"\n\ndata: [DONE]\n\n")
    (one,) = received_choices(httpx.Response(200, headers=response.headers, content=received)).values()
    assert one.complete is True
    oracle.check(one.traits, one.prompt, one.tokens)


def test_requests_of_all_kinds_at_once_do_not_mix(scored: Server, oracle: Oracle) -> None:
    cases = [(case, stream) for case in CASES.values() for stream in {False, case.stream is not None}]

    def ask(case: Case, stream: bool) -> dict[int, ReceivedChoice]:
        fields = {"stream": True, **(case.stream or {})} if stream else {}
        return received_choices(post(scored, case.path, case.body, **case.token_fields, **fields))

    with ThreadPoolExecutor(32) as clients:
        answers = list(clients.map(lambda request: ask(*request), cases))
    for (case, _), choices in zip(cases, answers, strict=True):
        for one in _with_tokens(choices, case, scored).values():
            oracle.check(one.traits, one.prompt, one.tokens)


@contextmanager
def _standing_still(server: Server) -> Iterator[Callable[[], None]]:
    """Stop the processes of the engine until the block ends, or calls the function that it is given."""
    engine = psutil.Process(server.process.pid).children(recursive=True)

    def go_on() -> None:
        for process in engine:
            process.resume()

    for process in engine:
        process.suspend()
    try:
        yield go_on
    finally:
        go_on()


def _with_tokens(choices: dict[int, ReceivedChoice], case: Case, server: Server) -> dict[int, ReceivedChoice]:
    """Return the choices with their tokens; requests for the twins of the case give the tokens that an answer lacks."""
    for twin, (answer, one) in zip(case.twins, choices.items(), strict=bool(case.twins)):
        same = received_choices(post(server, CHAT, twin, return_token_ids=True, traits=False))[0]
        assert one.tokens in ([], same.tokens), answer
        one.tokens, one.prompt = same.tokens, same.prompt
    if case.body.get("echo") and case.body.get("max_tokens") == 0:
        # vLLM generates a token for an echo, lists it, and has it in no answer.
        for one in choices.values():
            one.tokens = []
    return choices


def _near(scores: Any) -> Any:
    """Return an object that equals the scores of another run, within `NEAR`."""
    if isinstance(scores, dict):
        return {name: _near(value) for name, value in scores.items()}
    if isinstance(scores, list):
        return [_near(value) for value in scores]
    return pytest.approx(scores, abs=NEAR) if isinstance(scores, float) else scores
