"""Describes the scores in `/openapi.json`, beside what FastAPI itself finds in vLLM's routes and in ours.

The middleware adds fields to vLLM's bodies, and FastAPI does not see these fields. vLLM's own part of the schema stays
unchanged: the body of a request is vLLM's *and* ours. vLLM does not describe its answers; of an answer, this module
describes our fields.
"""

from typing import Any

import msgspec
from fastapi import FastAPI
from pydantic import TypeAdapter

from traitwatch_server.recording.spike_log import SpikeEvent
from traitwatch_server.responses.endpoints import MESSAGES
from traitwatch_server.responses.schema import (
    Json,
    ScoredAnswer,
    ScoredChoices,
    ScoredChoicesEvent,
    ScoredMessagesEvent,
    ScoredResponsesEvent,
    TraitsRequest,
)

_REF = "#/components/schemas/{}"
# For each scored endpoint: our fields of its answer, and our fields of an event's data. OpenAPI 3.1 cannot describe a
# stream. As in OpenAI's own description, the schema of a `text/event-stream` is the schema of an event's data.
_ANSWERS: dict[str, tuple[Any, Any]] = {
    "/v1/chat/completions": (ScoredChoices, ScoredChoicesEvent),
    "/v1/completions": (ScoredChoices, ScoredChoicesEvent),
    "/v1/chat/completions/batch": (ScoredChoices, None),
    "/v1/responses": (ScoredAnswer, ScoredResponsesEvent),
    MESSAGES: (ScoredAnswer, ScoredMessagesEvent),
}
_OURS = ("/v1/traits", "/v1/spikes")


def describe_scores(app: FastAPI) -> None:
    """Describe the scores of requests and answers in the schema of `app`, which FastAPI makes at its first use."""
    made_by_fastapi = app.openapi

    def openapi() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = with_scores(made_by_fastapi())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def with_scores(schema: Json) -> Json:
    """Add our fields to an OpenAPI schema, in place, and return it."""
    components: Json = schema["components"]["schemas"]
    wanted = [kind for kinds in _ANSWERS.values() for kind in kinds if kind is not None]
    schemas, definitions = TypeAdapter.json_schemas(
        [(kind, "validation", TypeAdapter(kind)) for kind in dict.fromkeys([TraitsRequest, *wanted])],
        ref_template=_REF.format("{model}"),
    )
    components.update(definitions["$defs"])
    of = {kind: kind_schema for (kind, _), kind_schema in schemas.items()}
    for path, (answer, event) in _ANSWERS.items():
        if path not in schema["paths"]:
            continue
        operation = schema["paths"][path]["post"]
        _add(operation["requestBody"]["content"]["application/json"], of[TraitsRequest])
        answers = operation["responses"]["200"]["content"]
        _add(answers["application/json"], of[answer])
        if event is not None:
            _add(answers["text/event-stream"], of[event])
    _describe_spikes(schema["paths"], components)
    for path, operations in schema["paths"].items():
        if path.startswith(_OURS):
            for operation in operations.values():
                _correct_errors(operation["responses"])
    return schema


def _add(content: Json, ours: Json) -> None:
    """Make the schema of a body vLLM's, where vLLM has one, and ours."""
    theirs = content.get("schema")
    content["schema"] = {"allOf": [theirs, ours]} if theirs else ours


def _describe_spikes(paths: Json, components: Json) -> None:
    """Describe the answer of `/v1/spikes`, whose events are encoded by msgspec; nothing where the route is off."""
    if "/v1/spikes" not in paths:
        return
    _, definitions = msgspec.json.schema_components([SpikeEvent], ref_template=_REF.format("{name}"))
    components.update(definitions)
    components["SpikeList"] = {
        "title": "SpikeList",
        "description": "The latest spikes, newest first.",
        "type": "object",
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"$ref": _REF.format("SpikeEvent")}},
        },
        "required": ["object", "data"],
    }
    answer = paths["/v1/spikes"]["get"]["responses"]["200"]
    answer["content"] = {"application/json": {"schema": {"$ref": _REF.format("SpikeList")}}}


def _correct_errors(responses: Json) -> None:
    """Correct the errors of a route of ours: describe those that the server really answers."""
    # Where FastAPI would answer 422, vLLM answers its own 400.
    responses.pop("422", None)
    for status, response in responses.items():
        if status != "200":
            # FastAPI gives an error the media type of the answer. The error of a page is JSON.
            (content,) = response["content"].values()
            response["content"] = {"application/json": content}
