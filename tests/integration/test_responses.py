"""A client gets one score for each token, streamed or not, and vLLM's own answer for `"traits": false`."""

import json
from typing import Any

import httpx
import pytest

from tests.support.answers import STREAMS, alike, headers, raw
from tests.support.serving import MODEL_NAME, Server

pytestmark = pytest.mark.engine

CHAT = {
    "model": MODEL_NAME,
    "messages": [
        {"role": "system", "content": "You answer in one or two sentences."},
        {"role": "user", "content": "Why do cats purr? Réponds simplement."},
    ],
    "temperature": 0.0,
    "max_tokens": 40,
}
COMPLETION = {"model": MODEL_NAME, "prompt": "The lighthouse keeper said", "temperature": 0.0, "max_tokens": 24}
# Two runs of a request differ by the order of float32 sums, and by the rounding to four decimals.
NEAR = 1e-3
PATHS = [("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION)]


@pytest.mark.parametrize(("path", "body"), PATHS)
def test_n_tokens_give_n_entries_of_which_the_last_is_null(scored: Server, path: str, body: dict[str, Any]) -> None:
    answer = _post(scored, path, {**body, "traits": True}).json()
    choice = answer["choices"][0]
    assert choice["traits_complete"] is True
    for name, scores in choice["traits"].items():
        assert len(scores["tokens"]) == answer["usage"]["completion_tokens"], name
        assert scores["tokens"][-1] is None
        assert all(isinstance(value, float) for value in scores["tokens"][:-1]), name
        assert isinstance(scores["prompt_last"], float)
        assert scores["mean"] == pytest.approx(sum(scores["tokens"][:-1]) / (len(scores["tokens"]) - 1), abs=1e-3)


@pytest.mark.parametrize("max_tokens", [1, 2])
def test_the_shortest_responses(scored: Server, max_tokens: int) -> None:
    answer = _post(scored, "/v1/chat/completions", {**CHAT, "max_tokens": max_tokens, "traits": True}).json()
    scores = answer["choices"][0]["traits"]["probe2"]
    assert len(scores["tokens"]) == max_tokens
    assert scores["tokens"][-1] is None
    assert (scores["mean"] is None) == (max_tokens == 1)
    assert answer["choices"][0]["traits_complete"] is True


@pytest.mark.parametrize(("path", "body"), PATHS)
def test_the_parts_of_a_stream_join_to_the_unstreamed_scores(scored: Server, path: str, body: dict[str, Any]) -> None:
    whole = _post(scored, path, {**body, "traits": True}).json()["choices"][0]
    joined, last = _join(_post(scored, path, {**body, "traits": True, "stream": True}).text)
    assert last["traits_complete"] is True
    assert last["finish_reason"] is not None
    for name, expected in whole["traits"].items():
        last_part = last["traits"][name]
        assert last_part.keys() - {"start"} == expected.keys()
        got = {**last_part, "tokens": joined[name]}
        assert [type(value) for value in got["tokens"]] == [type(value) for value in expected["tokens"]]
        # Two runs: the second reads the prompt from the prefix cache, so sums may be ordered differently.
        assert got["tokens"][:-1] == pytest.approx(expected["tokens"][:-1], abs=NEAR), name
        for field in ("mean", "prompt_last"):
            assert got[field] == pytest.approx(expected[field], abs=NEAR), (name, field)


def test_a_stream_scores_while_it_runs(embedded: Server) -> None:
    """A live monitor needs most scores before the last event."""
    early = late = 0
    for _ in range(STREAMS):
        events = _events(_post(embedded, "/v1/chat/completions", {**CHAT, "traits": True, "stream": True}).text)
        choices = [event["choices"][0] for event in events if event["choices"]]
        early = sum(len(c["traits"]["paternalism"]["tokens"]) for c in choices[:-1] if "traits" in c)
        late = len(choices[-1]["traits"]["paternalism"]["tokens"])
        if early > late:
            break
    assert early > late


def test_a_summary_carries_no_tokens(embedded: Server) -> None:
    answer = _post(
        embedded, "/v1/chat/completions", {**CHAT, "traits": {"include": ["paternalism"], "tokens": False}}
    ).json()
    traits = answer["choices"][0]["traits"]
    assert list(traits) == ["paternalism"]
    assert "tokens" not in traits["paternalism"]
    assert isinstance(traits["paternalism"]["z"], float)
    assert traits["paternalism"]["layer"] == 20


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), PATHS)
def test_an_answer_without_scores_is_vllms_byte_for_byte(
    scored: Server, unscored: Server, path: str, body: dict[str, Any], stream: bool
) -> None:
    ours, theirs = alike(
        lambda: _post(scored, path, {**body, "stream": stream, "traits": False}),
        lambda: _post(unscored, path, {**body, "stream": stream}),
        raw,
    )
    assert raw(ours) == raw(theirs)
    assert headers(ours) == headers(theirs)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), PATHS)
def test_with_traits_the_rest_of_the_answer_is_unchanged(
    scored: Server, unscored: Server, path: str, body: dict[str, Any], stream: bool
) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    request = {**body, **options, "logprobs": 1 if "prompt" in body else True}

    def rest(response: httpx.Response) -> list[Any]:
        parts = _events(response.text) if stream else [json.loads(response.text)]
        for part in parts:
            for choice in part["choices"]:
                choice.pop("traits", None)
                choice.pop("traits_complete", None)
        return [_without_identity(part) for part in parts]

    ours, theirs = alike(
        lambda: _post(scored, path, {**request, "traits": True}), lambda: _post(unscored, path, request), rest
    )
    assert rest(ours) == rest(theirs)


def test_an_echoed_prompt_is_scored_and_stays_in_the_text(scored: Server, unscored: Server) -> None:
    ours = _post(scored, "/v1/completions", {**COMPLETION, "echo": True, "traits": True}).json()
    theirs = _post(unscored, "/v1/completions", {**COMPLETION, "echo": True}).json()
    choice = ours["choices"][0]
    assert choice["text"] == theirs["choices"][0]["text"]
    assert choice["text"].startswith(COMPLETION["prompt"])
    assert choice["traits_complete"] is True
    assert len(choice["traits"]["probe2"]["tokens"]) == ours["usage"]["completion_tokens"]


def test_a_seeded_request_with_a_long_prompt_does_not_end_the_engine(scored: Server) -> None:
    """On a CPU, such a request would end vLLM's own engine, which prefills the prompt in chunks."""
    long = [{"role": "user", "content": "Say something about the sea, the wind and the weather. " * 12}]
    body = {**CHAT, "messages": long, "temperature": 0.8, "seed": 7, "traits": True}
    answer = _post(scored, "/v1/chat/completions", body).json()
    assert answer["usage"]["prompt_tokens"] > 256
    assert answer["choices"][0]["traits_complete"] is True
    assert _post(scored, "/v1/chat/completions", {**CHAT, "seed": 7, "temperature": 0.8}).status_code == 200


def test_the_client_that_asks_for_token_ids_keeps_them(scored: Server) -> None:
    answer = _post(scored, "/v1/chat/completions", {**CHAT, "traits": True, "return_token_ids": True}).json()
    assert len(answer["choices"][0]["token_ids"]) == len(answer["choices"][0]["traits"]["probe2"]["tokens"])
    assert answer["prompt_token_ids"]


def test_several_choices_and_prompts_are_each_scored(scored: Server) -> None:
    body = {**COMPLETION, "prompt": ["One apple, two", "The sea was"], "n": 2, "temperature": 0.9, "traits": True}
    answer = _post(scored, "/v1/completions", {**body, "return_token_ids": True}).json()
    prompt_last = {}
    for choice in answer["choices"]:
        scores = choice["traits"]["probe2"]
        assert choice["traits_complete"] is True
        assert len(scores["tokens"]) == len(choice["token_ids"])
        prompt_last.setdefault(choice["index"] // 2, []).append(scores["prompt_last"])
    assert [len(values) for values in prompt_last.values()] == [2, 2]
    # The choices of one prompt share its prompt-last state; the two prompts do not.
    assert prompt_last[0][0] == pytest.approx(prompt_last[0][1], abs=NEAR)
    assert prompt_last[0][0] != pytest.approx(prompt_last[1][0], abs=0.3)


@pytest.mark.parametrize(
    ("traits", "message"),
    [
        ({"include": ["kindness"]}, "no trait 'kindness' is loaded"),
        ({"includes": ["probe2"]}, "includes"),
        ("yes", "must be true, false or an object"),
        ({"tokens": "many"}, "tokens"),
    ],
)
def test_a_malformed_request_is_refused_in_openais_shape(scored: Server, traits: object, message: str) -> None:
    response = _post(scored, "/v1/chat/completions", {**CHAT, "traits": traits})
    error = response.json()["error"]
    assert response.status_code == 400
    assert message in error["message"]
    assert error["param"] == "traits"


def test_vllms_own_errors_pass_through(scored: Server, unscored: Server) -> None:
    for body in ({**CHAT, "max_tokens": -3, "traits": True}, {"model": "nobody", "messages": [], "traits": True}):
        ours = _post(scored, "/v1/chat/completions", body)
        theirs = _post(unscored, "/v1/chat/completions", {k: v for k, v in body.items() if k != "traits"})
        assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json())
    garbage = httpx.post(f"{scored.url}/v1/chat/completions", content=b"{not json")
    assert garbage.status_code == 400


def test_the_loaded_traits_are_listed_with_their_calibration(embedded: Server) -> None:
    listed = {trait["id"]: trait for trait in httpx.get(f"{embedded.url}/v1/traits", timeout=60).json()["data"]}
    assert listed["paternalism"]["layer"] == 20
    assert listed["paternalism"]["calibration"]["std"] > 0
    assert listed["probe10"]["layer"] == 10
    assert listed["probe10"]["calibration"] is None


def test_scores_reach_the_openai_client(scored: Server) -> None:
    answer: Any = scored.client().chat.completions.create(**CHAT, extra_body={"traits": True})  # type: ignore[call-overload]
    tokens = answer.choices[0].traits["probe2"]["tokens"]
    assert len(tokens) == answer.usage.completion_tokens


def _post(server: Server, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json=body, timeout=300)


def _events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def _join(text: str) -> tuple[dict[str, list[float | None]], dict[str, Any]]:
    """Put the parts of a stream together; return the tokens of each trait and the last choice."""
    joined: dict[str, list[float | None]] = {}
    choices = [event["choices"][0] for event in _events(text) if event["choices"]]
    for choice in choices:
        for name, part in choice.get("traits", {}).items():
            assert part["start"] == len(joined.setdefault(name, []))
            joined[name] += part["tokens"]
    return joined, choices[-1]


_IDENTITY = ("id", "created", "system_fingerprint")


def _without_identity(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key not in _IDENTITY}
