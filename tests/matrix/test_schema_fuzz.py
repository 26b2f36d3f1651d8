"""Requests made from a server's own schema: none passes a guard without its key, and none makes a route of ours fail.

The server has `--root-path /`, under which vLLM's own guard guards nothing. Each path is asked for with and without it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.schemas import APIOperation

from tests.support.cases import ENDPOINTS, bare
from tests.support.random_llama import LAYER_OPTIONS
from tests.support.schema_fuzz import fuzz, is_ours, not_a_fault, operations
from tests.support.serving import OPERATOR, WITH_ADMIN_KEY, Server, serving, traitwatch
from traitwatch.vllm_private.api_process import GUARDED_PREFIX

pytestmark = pytest.mark.engine

KEY = "a-clients-key"
CLIENT = {"authorization": f"Bearer {KEY}"}
# Requests for each operation, and for our routes as many invalid ones: a minute in all.
TRIES, TRIES_OF_VLLM = 50, 6


@pytest.fixture(scope="module")
def server(model: Path, probes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("schema")
    command = [*WITH_ADMIN_KEY, *traitwatch("serve", model, "--traits", probes, *LAYER_OPTIONS)]
    ours = ["--traits-admin", "--traits-events", str(directory / "spikes.jsonl"), "--traits-events-text"]
    theirs = ["--root-path", "/", "--api-key", KEY, "--dtype", "float32", "--enforce-eager"]
    with serving([*command, *ours, *theirs], directory / "server.log") as server:
        yield server


@pytest.fixture(scope="module")
def all_operations(server: Server) -> list[APIOperation]:
    found = operations(server.url)
    ours = {operation.label for operation in found if is_ours(operation)}
    routes = {"GET /v1/traits", "GET /v1/spikes", "GET /v1/traits/{name}/report"}
    assert ours == routes | {"POST /v1/traits/{name}", "DELETE /v1/traits/{name}"}
    return found


@pytest.fixture(scope="module", autouse=True)
def no_fault_of_ours(server: Server) -> Iterator[None]:
    yield
    log = server.log.read_text(errors="replace")
    assert "traitwatch_server/" not in log, "the log has a traceback through our code"
    for name in ("traitwatch_responses_incomplete_total", "traitwatch_tokens_unscored_total"):
        assert server.metric(name, reason="internal_error") == 0


def bases(server: Server) -> tuple[str, str]:
    """Return the addresses of the server, without and with its root path."""
    return server.url, f"{server.url}/"


def test_without_the_key_no_request_of_the_schema_passes(server: Server, all_operations: list[APIOperation]) -> None:
    def unauthorized(case: Case, answer: requests.Response) -> None:
        # A made-up name may have a slash in it, and be the path of no route.
        assert answer.status_code in (401, 404), f"{case.method} {case.formatted_path}: {answer.text[:300]}"

    guarded = [one for one in all_operations if one.path.startswith((*GUARDED_PREFIX, "/invocations"))]
    assert len(guarded) > 12
    for headers in ({}, {"authorization": "Bearer wrong"}, OPERATOR):
        for operation in guarded:
            assert fuzz(operation, bases(server), headers, unauthorized, tries=TRIES_OF_VLLM)


def test_without_the_admin_key_no_client_passes_as_an_operator(
    server: Server, all_operations: list[APIOperation]
) -> None:
    def refused(case: Case, answer: requests.Response) -> None:
        assert answer.status_code in (400, 403, 404, 405), f"{case.method} {case.formatted_path}: {answer.text[:300]}"

    for operation in all_operations:
        if operation.path == "/v1/spikes" or (is_ours(operation) and operation.method != "get"):
            for headers in ({}, {"x-traitwatch-admin-key": KEY}):
                fuzz(operation, bases(server), {**CLIENT, **headers}, refused, tries=TRIES)


def test_no_request_of_an_operator_makes_a_route_of_ours_fail(
    server: Server, all_operations: list[APIOperation]
) -> None:
    for operation in filter(is_ours, all_operations):
        for name in ({"name": "probe4"}, None) if "{name}" in operation.path else (None,):
            fuzz(operation, bases(server), {**CLIENT, **OPERATOR}, not_a_fault, tries=TRIES, parameters=name)


def test_no_request_to_vllm_fails_in_our_code(server: Server, all_operations: list[APIOperation]) -> None:
    """vLLM's own code may fail on a body of its schema. `no_fault_of_ours` reads the log."""
    for operation in all_operations:
        if operation.path in ENDPOINTS:
            fuzz(operation, bases(server), CLIENT, lambda case, answer: None, tries=TRIES_OF_VLLM)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["probe1", "probe2", "probe4", "nobody", ""])
traits = values | st.fixed_dictionaries(
    {},
    optional={
        "include": st.lists(names | values, max_size=4) | values,
        "tokens": st.booleans() | values,
        "prompt": st.booleans() | values,
        "other": values,
    },
)


@pytest.mark.parametrize("path", ENDPOINTS)
def test_no_value_of_traits_makes_a_request_fail(path: str, server: Server) -> None:
    statuses = set()

    @settings(
        max_examples=TRIES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(traits)
    def attempt(asked: Any) -> None:
        body = json.dumps({**bare(path), "traits": asked})
        headers = {**CLIENT, "content-type": "application/json"}
        answer = httpx.post(f"{server.url}/{path}", content=body, headers=headers, timeout=60)
        assert answer.status_code in (200, 400), answer.text
        statuses.add(answer.status_code)

    attempt()
    assert statuses == {200, 400}
