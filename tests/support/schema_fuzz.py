"""Sends a server requests that schemathesis makes from the server's own schema, valid ones and invalid ones."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.schemas import APIOperation

OURS = ("/v1/traits", "/v1/spikes")
_TIMEOUT = 60
# Fields of a body that ask for many tokens, and what they ask for here.
_FEW = dict.fromkeys(("max_tokens", "max_completion_tokens", "max_output_tokens"), 4) | {"n": 1, "best_of": 1}


def operations(url: str) -> list[APIOperation]:
    """Return the operations of a server's schema."""
    document = httpx.get(f"{url}/openapi.json", timeout=_TIMEOUT).raise_for_status().json()
    return [result.ok() for result in schemathesis.openapi.from_dict(document).get_all_operations()]


def is_ours(operation: APIOperation) -> bool:
    """Return whether an operation is one of our routes."""
    return operation.path.startswith(OURS)


def fuzz(
    operation: APIOperation,
    bases: tuple[str, ...],
    headers: Mapping[str, str],
    check: Callable[[Case, requests.Response], None],
    *,
    tries: int,
    parameters: dict[str, str] | None = None,
) -> int:
    """Send requests of one operation, and check each answer. The requests are the same in every run.

    Args:
        operation: the operation.
        bases: the addresses under which the server answers. They take turns.
        headers: the headers of each request, beside that of its media type.
        check: raises where an answer is not as it should be.
        tries: the number of valid requests, and of invalid ones.
        parameters: the parameters in the path; None for such as schemathesis makes.

    Returns:
        The number of requests.
    """
    sent = 0
    for mode in _modes(operation):

        @settings(
            max_examples=tries,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode, path_parameters=parameters))
        def attempt(case: Case) -> None:
            nonlocal sent
            if isinstance(case.body, dict):
                case.body.update({name: few for name, few in _FEW.items() if name in case.body})
            answer = case.call(base_url=bases[sent % len(bases)], auth=_Headers(headers), timeout=_TIMEOUT)
            sent += 1
            check(case, answer)

        attempt()
    return sent


def _modes(operation: APIOperation) -> Iterator[GenerationMode]:
    """Yield the kinds of requests to make. The schemas of vLLM's bodies are so large that none is made invalid."""
    yield GenerationMode.POSITIVE
    # Any text is a valid name in a path, so that a route without a body and a query has no invalid requests.
    if is_ours(operation) and (operation.body or operation.query):
        yield GenerationMode.NEGATIVE


class _Headers(requests.auth.AuthBase):
    """Sets headers at last. schemathesis makes up a header of the schema, and leaves it out of invalid requests."""

    def __init__(self, headers: Mapping[str, str]):
        self._headers = headers

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.pop("X-Traitwatch-Admin-Key", None)
        request.headers.update(self._headers)
        return request


def not_a_fault(case: Case, answer: Any) -> None:
    """Check that an answer is no error of the server, and is as the schema describes it."""
    assert answer.status_code < 500, f"{case.method} {case.formatted_path}: {answer.text[:300]}"
    described = case.operation.definition.raw["responses"]
    # FastAPI itself answers so where a body is no text at all, on vLLM's routes too.
    if str(answer.status_code) in described and "There was an error parsing the body" not in answer.text:
        case.operation.validate_response(answer)
