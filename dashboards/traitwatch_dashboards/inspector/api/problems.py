"""Messages about the problems of a server. Each message says what to do."""

import json

import httpx
import httpx2
import openai

from traitwatch.errors import NetworkError
from traitwatch.network import proxy_note
from traitwatch_dashboards.errors import DashboardError

# The errors of a request to a server. Our own requests go through httpx, those of the openai client through httpx2.
TROUBLE = (
    *(DashboardError, NetworkError, openai.OpenAIError),
    *(httpx.HTTPError, httpx.InvalidURL, httpx2.HTTPError, httpx2.InvalidURL),
)

_LONGEST = 400


def problem(error: Exception, url: str, *, answering: bool = False) -> str:
    """Return a plain message for an error.

    Args:
        error: the error that a request raised.
        url: address of the server.
        answering: whether a part of the answer had arrived.
    """
    if isinstance(error, DashboardError | NetworkError):
        return str(error)
    if isinstance(error, openai.APIStatusError):
        return problem_of_status(error.status_code, message_of(error.response.text), url)
    if answering:
        reason = str(error).strip() if isinstance(error, openai.APIError) else ""
        lost = isinstance(error, openai.APIConnectionError) or not reason
        why = "The connection was lost" if lost else f"The server gave up ({reason[:_LONGEST]})"
        return f"{why} while {url} was answering. The text so far is kept. Is the server still running?"
    if isinstance(error, httpx.TimeoutException | httpx2.TimeoutException | openai.APITimeoutError):
        return f"{url} does not answer in time. It may be busy or still starting: try again in a moment."
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol | httpx2.InvalidURL | httpx2.UnsupportedProtocol):
        return f"{url} is not an address: start this page with --url http://HOST:PORT."
    if isinstance(error, httpx.TransportError | httpx2.TransportError | openai.APIConnectionError):
        start = "Start one there with `traitwatch serve MODEL --traits DIR`, or start this page with the right --url."
        return f"No server answers at {url}. {proxy_note(url) or start}"
    return f"{url} sent an answer that was not understood: {str(error)[:_LONGEST]}"


def problem_of_status(status: int, message: str, url: str) -> str:
    """Return a plain message for a response with an error status."""
    if status in (401, 403):
        return f"{url} refuses the API key. Start this page with --api-key KEY, or set TRAITWATCH_API_KEY."
    if status == 404:
        return f"{url} does not have that: {message or 'not found'}. Check the model, and the address in --url."
    if status >= 500:
        return f"{url} failed ({status}): {message or 'its log says more'}."
    return f"The server refuses the request: {message or status}"


def no_spikes(url: str, *, has_key: bool) -> str:
    """Return the message where a server does not show its latest spikes.

    Args:
        url: address of the server.
        has_key: whether this page has an admin key.
    """
    if has_key:
        return (
            f"{url} refuses the admin key of this page. Start the page with the key of the server in "
            "TRAITWATCH_ADMIN_KEY; a server without an admin key shows no spikes."
        )
    return (
        "this page has no admin key, and only an operator may see the spikes of everybody. Start the server and this "
        "page with the same key in TRAITWATCH_ADMIN_KEY."
    )


def not_traitwatch(url: str) -> str:
    """Return the message about a server without the path `/v1/traits`."""
    return (
        f"A server answers at {url}, but it is not a Traitwatch server: it has no /v1/traits. Check the address (host "
        "and port, and no path), or start the server with `traitwatch serve`."
    )


def message_of(body: str) -> str:
    """Return the message in the body of an error, in OpenAI's shape or FastAPI's; else the whole body."""
    try:
        parsed = json.loads(body)
        error = parsed.get("error", parsed)
        message = error if isinstance(error, str) else error.get("message") or error.get("detail")
    except (ValueError, RecursionError, AttributeError):
        message = None
    return str(message or body)[:_LONGEST]
