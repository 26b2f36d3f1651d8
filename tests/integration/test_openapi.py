"""The schema that a server publishes at `/openapi.json` agrees with its real requests and answers."""

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.support.answers import events, post
from tests.support.cases import CASES, CHAT, ENDPOINTS, MALFORMED, Case, bare
from tests.support.openapi import EVENTS, Schema
from tests.support.schema_fuzz import fuzz, is_ours, not_a_fault, operations
from tests.support.serving import OPERATOR, Server

pytestmark = pytest.mark.engine

# The values of `traits` in a request; each gives scores of another shape.
TRAITS = [None, False, {"tokens": False}, {"include": ["probe2"], "prompt": True}]


def _schema(server: Server) -> Schema:
    return Schema(httpx.get(f"{server.url}/openapi.json", timeout=60).raise_for_status().json())


@pytest.fixture(scope="module")
def schema(scored: Server) -> Schema:
    return _schema(scored)


def _with_scores(answer: Any) -> list[dict[str, Any]]:
    """Return all objects of an answer that have scores."""
    found = [answer, answer.get("response"), *(answer.get("choices") or ())]
    return [carrier for carrier in found if carrier is not None and carrier.get("traits")]


def _responses(case: Case, fields: dict[str, Any], server: Server, schema: Schema) -> list[tuple[Any, httpx.Response]]:
    """Send one request for each value in `TRAITS`, all at once; return each value with its response."""
    bodies = [{**case.body, **fields, "traits": traits} for traits in TRAITS]
    for body in bodies:
        schema.request(case.path).validate(body)
    with ThreadPoolExecutor(len(bodies)) as clients:
        return list(zip(TRAITS, clients.map(lambda body: post(server, case.path, body), bodies), strict=True))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_requests_and_answers_agree_with_the_schema(case: Case, scored: Server, schema: Schema) -> None:
    for traits, response in _responses(case, {}, scored, schema):
        answer = response.json()
        schema.answer(case.path).validate(answer)
        assert bool(_with_scores(answer)) == (traits is not False)


@pytest.mark.parametrize("case", [case for case in CASES.values() if case.stream is not None])
def test_the_events_of_a_stream_agree_with_the_schema(case: Case, scored: Server, schema: Schema) -> None:
    event = schema.answer(case.path, media_type=EVENTS)
    for traits, response in _responses(case, {**(case.stream or {}), "stream": True}, scored, schema):
        parts = [json.loads(data) for _, data in events(response) if data.startswith("{")]
        for data in parts:
            event.validate(data)
        assert any(map(_with_scores, parts)) == (traits is not False)


@pytest.mark.parametrize("path", ENDPOINTS)
def test_the_schema_rejects_changed_scores(path: str, scored: Server, schema: Schema) -> None:
    answer = post(scored, path, bare(path)).json()
    holds = schema.answer(path)
    for change in (
        lambda carrier: carrier.pop("traits_complete"),
        lambda carrier: carrier["traits"]["probe1"].pop("layer"),
        lambda carrier: carrier["traits"]["probe1"].update(more=1),
        lambda carrier: carrier["traits"]["probe1"]["tokens"].append("0.5"),
        lambda carrier: carrier["traits"].update(probe1=None),
    ):
        changed = copy.deepcopy(answer)
        change(_with_scores(changed)[0])
        assert not holds.is_valid(changed)


@pytest.mark.parametrize("path", ENDPOINTS)
def test_the_schema_rejects_the_requests_that_the_server_refuses(path: str, scored: Server, schema: Schema) -> None:
    for traits, message in MALFORMED:
        refused = post(scored, path, bare(path), traits=traits)
        assert refused.status_code == 400
        schema.answer(path, status=400).validate(refused.json())
        # The schema does not name the loaded traits: everybody may read the schema, and it is made only once.
        assert schema.request(path).is_valid({**bare(path), "traits": traits}) == ("no trait" in message)


def test_the_traits_and_their_reports_agree_with_the_schema(scored: Server, embedded: Server) -> None:
    """One server has traits without a calibration, the other has traits with complete cards."""
    for server in (scored, embedded):
        schema = _schema(server)
        listed = httpx.get(f"{server.url}/v1/traits", timeout=60).json()
        schema.answer("/v1/traits", "get").validate(listed)
    paternalism = {trait["id"]: trait for trait in listed["data"]}["paternalism"]
    assert None not in paternalism.values()
    assert paternalism["calibration"]["thresholds"]
    report = httpx.get(f"{embedded.url}{paternalism['report']}", timeout=60)
    assert report.headers["content-type"].partition(";")[0] == "text/html"
    missing = httpx.get(f"{embedded.url}/v1/traits/kindness/report", timeout=60)
    schema.answer("/v1/traits/{name}/report", "get", 404).validate(missing.json())


def test_spikes_agree_with_the_schema(embedded: Server) -> None:
    schema = _schema(embedded)
    reply = "You do not need to know that, dear. Leave it to me; I know what is best for you, and you must do as I say."
    questions = ["May I lend my car to a friend?", "How do I start a bakery?", "Is it safe to travel alone?"]
    messages = [
        {"role": role, "content": text} for q in questions for role, text in (("user", q), ("assistant", reply))
    ]
    fields = {"messages": [*messages, {"role": "user", "content": "Should I move to the city?"}], "max_tokens": 80}
    body = {**bare(CHAT), **fields, "n": 8, "traits": True}
    answer = post(embedded, CHAT, body).json()
    schema.answer(CHAT).validate(answer)
    assert any(scores["spikes"] for choice in answer["choices"] for scores in choice["traits"].values())
    spikes = httpx.get(f"{embedded.url}/v1/spikes", params={"limit": 3}, headers=OPERATOR, timeout=60).json()
    with_spikes = _schema(embedded)
    with_spikes.answer("/v1/spikes", "get").validate(spikes)
    assert len(spikes["data"]) == 3
    refused = httpx.get(f"{embedded.url}/v1/spikes", params={"limit": 0}, headers=OPERATOR, timeout=60)
    assert refused.status_code == 400
    with_spikes.answer("/v1/spikes", "get", 400).validate(refused.json())


def test_vllms_routes_are_all_there(schema: Schema, unscored: Server) -> None:
    """A unit test compares the schema of each route: vLLM's names for two of the routes vary from run to run."""
    theirs = _schema(unscored).document["paths"]
    ours = schema.document["paths"]
    assert {path: operations.keys() for path, operations in theirs.items()} == {
        path: operations.keys() for path, operations in ours.items() if path in theirs
    }
    assert ours.keys() - theirs.keys() == {"/v1/traits", "/v1/traits/{name}/report"}


def test_no_request_of_the_schema_makes_a_route_of_ours_fail(embedded: Server) -> None:
    """tests/matrix/test_schema_fuzz.py tries more, at a server with keys and a root path."""
    answered = set()

    def check(case: Any, answer: Any) -> None:
        not_a_fault(case, answer)
        answered.add((case.operation.label, answer.status_code))

    for operation in filter(is_ours, operations(embedded.url)):
        fuzz(operation, (embedded.url,), OPERATOR, check, tries=20)
    assert {("GET /v1/traits", 200), ("GET /v1/spikes", 200), ("GET /v1/spikes", 400)} <= answered
    assert httpx.get(f"{embedded.url}/v1/spikes", timeout=60).status_code == 403
