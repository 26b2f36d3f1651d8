"""The fields of a request decide whether its answer is scored. vLLM gets the request without our field."""

import json

import pytest
from prometheus_client import CollectorRegistry

from tests.support.asgi import CHAT, COMPLETIONS, MESSAGES, RESPONSES, App, call, choices, monitor_of, settled
from tests.support.engine import TOKENS
from tests.support.samples import sample
from traitwatch_server.monitor import Monitor


async def test_the_request_loses_its_traits_field(monitor: Monitor) -> None:
    app = App(monitor, choices(0))
    await call(app, monitor, b'{"messages": [], "traits": {"include": ["paternalism"]}}')
    assert json.loads(app.body) == {"messages": []}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (RESPONSES, b'"use_beam_search": true'),
        (MESSAGES, b'"use_beam_search": true'),
        (CHAT, b'"use_beam_search": "false"'),
        (COMPLETIONS, b'"use_beam_search": "0"'),
        (CHAT, b'"use_beam_search": null'),
        (CHAT, b'"background": true'),
        (MESSAGES, b'"background": true'),
        (RESPONSES, b'"background": "off"'),
    ],
    ids=str,
)
async def test_a_field_without_meaning_to_vllm_does_not_turn_scoring_off(
    monitor: Monitor, registry: CollectorRegistry, path: str, fields: bytes
) -> None:
    answer = b'{"output": []}' if path in (RESPONSES, MESSAGES) else choices(0)
    result = await call(App(monitor, answer), monitor, b'{"traits": true, ' + fields + b"}", path)
    (carrier,) = result.json.get("choices", [result.json])
    assert carrier["traits_complete"] is True
    assert sample(registry, "responses_scored_total") == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"use\\u005fbeam_search": true}',
        b'{"top_p": NaN, "use_beam_search": "yes"}',
        '{"use_beam_search": 1}'.encode("utf-16"),
    ],
    ids=["escaped", "with what is no JSON", "UTF-16"],
)
async def test_a_beam_search_is_found_in_every_spelling(
    monitor: Monitor, registry: CollectorRegistry, body: bytes
) -> None:
    app = App(monitor, choices(0))
    assert (await call(app, monitor, body)).body == choices(0)
    assert app.body == body
    assert sample(registry, "responses_incomplete_total", reason="not_scorable") == 1
    assert sample(registry, "responses_scored_total") == 0


@pytest.mark.parametrize("traits", ["traits", "tr\\u0061its"])
async def test_vllm_gets_the_bytes_of_the_client(monitor: Monitor, traits: str) -> None:
    """This includes half a pair of surrogates and NaN, which vLLM accepts."""
    app = App(monitor, choices(0))
    body = b'{"top_p": NaN, "user": "\\ud800", "' + traits.encode() + b'": {"include": ["paternalism"]}}'
    result = await call(app, monitor, body)
    assert list(result.json["choices"][0]["traits"]) == ["paternalism"]
    assert app.body == b'{"top_p": NaN, "user": "\\ud800"}'


@pytest.mark.parametrize(
    ("body", "path", "method"),
    [
        (b'{"messages": [],   "traits_like": 1}', CHAT, "POST"),
        (b'{"messages": [{"content":   "say \\"traits\\"", "traits": 1}]}', CHAT, "POST"),
        (b'{"traits": not json at all', CHAT, "POST"),
        (b'["traits",   "a list"]   ', CHAT, "POST"),
        (b'{"traits": "\xff"}', CHAT, "POST"),
        (b'{"traits": true, "deep": ' + b"[" * 100_000, CHAT, "POST"),
        (b'{"traits": true, "input": "x"}', "/v1/embeddings", "POST"),
        (b'{"traits": true}', CHAT, "GET"),
    ],
)
async def test_a_request_that_is_not_to_be_scored_passes_byte_for_byte(
    registry: CollectorRegistry, body: bytes, path: str, method: str
) -> None:
    off = monitor_of(registry, "off")
    answer = b'{"a":  1, "choices": [{"index": 0}]}'
    app = App(off, answer)
    result = await call(app, off, body, path, method)
    assert app.body == body
    assert result.body == answer


async def test_traits_false_is_removed_and_the_answer_is_unchanged(monitor: Monitor) -> None:
    answer = b'{"choices":  [{"index": 0}]}'
    app = App(monitor, answer)
    result = await call(app, monitor, b'{"traits": false, "messages": []}')
    assert json.loads(app.body) == {"messages": []}
    assert result.body == answer


@pytest.mark.parametrize(
    "traits", [b'{"include": ["kindness"]}', b'{"tokens": 1}', b'{"layer": 3}', b'"all"'], ids=repr
)
async def test_a_selection_that_is_impossible_is_a_400_without_a_call_of_vllm(monitor: Monitor, traits: bytes) -> None:
    app = App(monitor, b"{}")
    result = await call(app, monitor, b'{"traits": ' + traits + b"}")
    assert result.messages[0]["status"] == 400
    assert result.json["error"]["param"] == "traits"
    assert app.body == b""
    assert app.engine.seen == []


async def test_a_request_that_cannot_be_scored_is_answered_unscored_and_counted(
    monitor: Monitor, registry: CollectorRegistry
) -> None:
    body = json.dumps({"messages": [], "use_beam_search": True}).encode()
    app = App(monitor, choices(0), n=2)
    result = await call(app, monitor, body)
    assert app.body == body
    assert result.body == choices(0)
    assert not app.engine.seen[0].extra_args
    assert sample(registry, "responses_incomplete_total", reason="not_scorable") == 1
    assert sample(registry, "tokens_unscored_total", reason="not_scorable") == 2 * len(TOKENS[0])
    assert sample(registry, "tokens_scored_total") == 0


async def test_a_background_response_carries_no_scores_and_is_recorded(
    monitor: Monitor, registry: CollectorRegistry
) -> None:
    body = json.dumps({"input": "", "background": True}).encode()
    result = await call(App(monitor, b'{"output":  []}'), monitor, body, RESPONSES)
    assert result.body == b'{"output":  []}'
    await settled(monitor)
    assert sample(registry, "responses_scored_total") == 1


@pytest.mark.parametrize(("path", "field"), [(CHAT, "use_beam_search"), (RESPONSES, "background")])
async def test_scores_that_a_response_cannot_carry_are_refused(monitor: Monitor, path: str, field: str) -> None:
    app = App(monitor, b"{}")
    refused = await call(app, monitor, json.dumps({field: True, "traits": True}).encode(), path)
    assert refused.messages[0]["status"] == 400
    assert "carries no scores" in refused.json["error"]["message"]
    assert app.engine.seen == []
