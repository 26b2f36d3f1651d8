"""The schema adds our fields and leaves vLLM's own part unchanged. Integration tests validate real answers with it."""

import copy
from datetime import UTC, datetime
from typing import Any

import msgspec
import openapi_spec_validator
import pytest

from tests.support.cases import bare
from tests.support.openapi import EVENTS, JSON, Schema
from tests.support.responses import response
from tests.support.serving import ADMIN_KEY
from tests.support.vllm_app import vllm_app
from traitwatch_server.app.admin import ADMIN_HEADER
from traitwatch_server.app.openapi import with_scores
from traitwatch_server.recording.spike_log import spike_events
from traitwatch_server.responses.endpoints import SHAPES

Json = dict[str, Any]

ADMIN = "/v1/traits/{name}"
SCORES: Json = {"layer": 2, "mean": 0.5, "z": None, "max_z": None, "prompt_last": 1, "spikes": [], "tokens": [1, None]}
PART: Json = {"start": 3, "tokens": [0.25]}
WHOLE: Json = {"traits": {"a": SCORES}, "traits_complete": True}
REST: Json = {"traits": {"a": {**SCORES, "start": 0}}, "traits_complete": False}
PARTS: Json = {"traits": {"a": PART}}


@pytest.fixture(scope="module")
def plain() -> Json:
    return vllm_app("").openapi()


@pytest.fixture(scope="module")
def schema() -> Schema:
    return Schema(vllm_app(admin=True, admin_key=ADMIN_KEY).openapi())


def test_the_document_is_a_schema(schema: Schema) -> None:
    openapi_spec_validator.validate(schema.document)


def test_vllms_own_part_is_untouched(plain: Json, schema: Schema) -> None:
    document = copy.deepcopy(dict(schema.document))
    for path in SHAPES:
        operation = document["paths"][path]["post"]
        body = operation["requestBody"]["content"][JSON]
        body["schema"], ours = body["schema"]["allOf"]
        assert ours == {"$ref": "#/components/schemas/TraitsRequest"}
        answers = operation["responses"]["200"]["content"]
        answers[JSON]["schema"] = {}
        if EVENTS in answers:
            del answers[EVENTS]["schema"]
    components = document["components"]["schemas"]
    assert {name: components[name] for name in plain["components"]["schemas"]} == plain["components"]["schemas"]
    assert {path: document["paths"][path] for path in plain["paths"]} == plain["paths"]
    assert document.keys() == plain.keys()


def test_the_schemas_of_vllm_and_ours_both_hold_for_an_answer(plain: Json) -> None:
    described = copy.deepcopy(plain)
    theirs = {"type": "object", "required": ["id"]}
    content = described["paths"]["/v1/responses"]["post"]["responses"]["200"]["content"]
    content[JSON]["schema"] = theirs
    answer = Schema(with_scores(described)).answer("/v1/responses")
    assert answer.is_valid({"id": "1", **WHOLE})
    assert not answer.is_valid(WHOLE)
    assert not answer.is_valid({"id": "1", "traits": {}})


def test_a_server_without_one_of_the_endpoints_has_a_schema(plain: Json) -> None:
    fewer = copy.deepcopy(plain)
    del fewer["paths"]["/v1/messages"]
    assert "/v1/messages" not in with_scores(fewer)["paths"]


def test_the_schema_is_built_once() -> None:
    app = vllm_app()
    assert app.openapi() is app.openapi()


def test_the_routes_that_load_traits_are_listed_only_where_they_work(schema: Schema) -> None:
    assert schema.document["paths"][ADMIN].keys() == {"post", "delete"}
    without = vllm_app(admin_key=ADMIN_KEY).openapi()["paths"]
    assert ADMIN not in without
    assert {"/v1/traits/{name}/report", "/v1/spikes"} <= without.keys()


def test_the_spikes_are_listed_only_where_an_operator_can_read_them(schema: Schema) -> None:
    without = vllm_app().openapi()
    assert "/v1/spikes" not in without["paths"]
    assert "/v1/traits" in without["paths"]
    (scheme,) = schema.document["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["in"], scheme["name"]) == ("apiKey", "header", ADMIN_HEADER)
    for path, method in (("/v1/spikes", "get"), (ADMIN, "post"), (ADMIN, "delete")):
        assert schema.document["paths"][path][method]["security"] == [{"AdminKey": []}]


@pytest.mark.parametrize(
    ("path", "method", "errors"),
    [
        ("/v1/traits", "get", {"401"}),
        ("/v1/spikes", "get", {"400", "401", "403"}),
        ("/v1/traits/{name}/report", "get", {"401", "404"}),
        (ADMIN, "post", {"400", "401", "403", "409"}),
        (ADMIN, "delete", {"401", "403", "404"}),
    ],
)
def test_the_errors_of_our_routes_are_json(path: str, method: str, errors: set[str], schema: Schema) -> None:
    responses = schema.document["paths"][path][method]["responses"]
    assert responses.keys() == {"200", *errors}
    assert all(responses[status]["content"].keys() == {JSON} for status in errors)


@pytest.mark.parametrize("path", SHAPES)
def test_a_request_has_the_fields_of_vllm_and_ours(path: str, schema: Schema) -> None:
    request = schema.request(path)
    body = bare(path)
    request.validate(body)
    for good in (True, False, None, {}, {"include": ["a"], "tokens": False, "prompt": True}):
        request.validate({**body, "traits": good})
    for bad in (1, "a", ["a"], {"include": "a"}, {"include": [1]}, {"tokens": 1}, {"prompt": "yes"}, {"includes": []}):
        assert not request.is_valid({**body, "traits": bad})
    assert not request.is_valid({**body, "model": 1, "traits": True})


@pytest.mark.parametrize("path", SHAPES)
def test_an_answer_has_scores_in_their_place(path: str, schema: Schema) -> None:
    answer = schema.answer(path)
    choices = path not in ("/v1/responses", "/v1/messages")
    for good in (WHOLE, {}):
        assert answer.is_valid({"choices": [{"index": 0, **good}]} if choices else {"id": "1", **good})
    for bad in ({"traits": WHOLE["traits"]}, PARTS, {**WHOLE, "traits_complete": None}):
        assert not answer.is_valid({"choices": [bad]} if choices else bad)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/messages"])
def test_an_event_has_a_part_of_the_scores_or_the_rest(path: str, schema: Schema) -> None:
    event = schema.answer(path, media_type=EVENTS)
    choices = path != "/v1/messages"
    for good in ({}, PARTS, REST):
        assert event.is_valid({"choices": [good]} if choices else good)
    for bad in ({**PARTS, "traits_complete": True}, {"traits": REST["traits"]}, {"traits_complete": True}):
        assert not event.is_valid({"choices": [bad]} if choices else bad)


def test_the_events_of_responses_have_parts_and_the_last_event_has_all_scores(schema: Schema) -> None:
    event = schema.answer("/v1/responses", media_type=EVENTS)
    for good in ({"type": "response.created", "response": {}}, {"delta": "x", **PARTS}, {"response": WHOLE}):
        assert event.is_valid(good)
    for bad in (WHOLE, {"response": PARTS}):
        assert not event.is_valid(bad)


@pytest.mark.parametrize("texts", [{}, {"prompt": "Why?", "text": "Because.", "spike_text": "cause"}])
def test_a_spike_has_the_fields_of_the_log(texts: dict[str, str], schema: Schema) -> None:
    (event,) = spike_events(response(), datetime.now(UTC), 1)
    listed = msgspec.to_builtins(msgspec.structs.replace(event, **texts))
    spikes = schema.answer("/v1/spikes", "get")
    spikes.validate({"object": "list", "data": [listed]})
    assert not spikes.is_valid({"object": "list", "data": [{**listed, "engine": 0}]})
