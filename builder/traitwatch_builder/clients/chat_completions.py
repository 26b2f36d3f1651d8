"""A client of servers that speak OpenAI's Chat Completions, for the judge and for answers.

The SDK retries 408, 409, 429, 5xx, time-outs and dropped connections with a growing, jittered delay. It obeys
`Retry-After` up to a minute (two minutes in newer versions). This module adds:

- `ChatClient`: one server. It waits longer where `Retry-After` demands it, and asks again after a garbled reply. It
  reads replies as `completion.Completion`.
- `altered`: the parameters of a request without the one that the server rejected.
- `plain_error`: an error of the SDK in plain words.
- `in_parallel` and `in_background`: run asynchronous requests, several at a time, behind an ordinary generator.
"""

import asyncio
import email.utils
import json
import logging
import math
import os
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

import httpx2
import openai
from rich.console import Console

from traitwatch.network import checked_header, client_options, proxy_note, redacted
from traitwatch_builder.clients.address import is_azure
from traitwatch_builder.clients.completion import CONTENT_FILTER, Completion
from traitwatch_builder.clients.usage import Usage
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.progress import warn

logger = logging.getLogger(__name__)

ItemT = TypeVar("ItemT")

Warn = Callable[[str], None]

SAVED = "All results so far are saved, and the same command goes on from there."
SCORES_ITSELF = (
    "{url} is a Traitwatch server, which scores whatever it is asked. {what} count in its metrics, spikes and drift: "
    "ask a server that nobody watches."
)
"""The warning about a server that scores our own requests."""
REJECTED = (openai.BadRequestError, openai.UnprocessableEntityError)
"""Errors for a request that the server does not accept: the same request would fail again."""

_CONNECT_SECONDS = 10.0
_MODELS_SECONDS = 30.0
_TRAITS_SECONDS = 5.0
_SDK_WAITS = 60.0  # seconds: the longest `Retry-After` that every version of the SDK obeys by itself
_LONGEST_WAIT = 3600.0
_LONG_WAITS = 5
_GARBLED_TRIES = 3
_sleep = asyncio.sleep
_ALTERABLE = ("logprobs", "top_logprobs", "temperature", "top_p", "seed", "response_format")


def warner(console: Console | None) -> Warn:
    """Return the function that warns the user: on a console, or in the log where there is no console."""
    if console is None:
        return logger.warning
    return partial(warn, console)


class ChatClient:
    """One server, asked through the SDK. Use the client in an `async with` block, which closes its connections.

    Attributes:
        url: the server's URL for messages, without a password and without the query.
    """

    def __init__(self, url: str, key: str, retries: int, warn: Warn, headers: Mapping[str, str] | None = None):
        """Make a client.

        Args:
            url: the server's URL, as `address.server_url` returns it.
            key: the server's key.
            retries: how often a request is tried again before it counts as failed.
            warn: called with a warning before a long wait.
            headers: further headers of every request.

        Raises:
            NetworkError: a proxy, a certificate file or a header of the environment cannot be used.
        """
        address = httpx2.URL(url)
        base = address.copy_with(query=None)
        self.url = redacted(str(base))
        self._address = base
        self._warn = warn
        # Azure takes a Bearer token for a token of its own kind, and would refuse the key there.
        self._headers = {"api-key": key, "Authorization": openai.Omit()} if is_azure(address) else {}
        self._sdk = openai.AsyncOpenAI(
            base_url=base,
            api_key=key,
            organization=_of_environment("OPENAI_ORG_ID"),
            project=_of_environment("OPENAI_PROJECT_ID"),
            default_query=dict(address.params),
            default_headers=dict(headers or {}),
            timeout=_MODELS_SECONDS,
            max_retries=retries,
            http_client=openai.DefaultAsyncHttpxClient(**client_options(base)),
        )

    async def complete(self, *, seconds: float, retries: int | None = None, **params: Any) -> Completion:
        """Ask for a chat completion with at least one choice.

        Args:
            seconds: the time limit of one try.
            retries: how often the request is tried again; None for the client's own number.
            params: the parameters of the request.

        Raises:
            openai.OpenAIError: the request failed for good; `plain_error` puts the error into plain words.
            PipelineError: the server does not speak the protocol.
        """
        sdk = self._sdk if retries is None else self._sdk.with_options(max_retries=retries)
        params["extra_headers"] = self._headers
        params["timeout"] = openai.Timeout(seconds, connect=_CONNECT_SECONDS)
        reply = b""
        for _ in range(_GARBLED_TRIES):
            reply = await self._complete_with_waits(sdk, params)
            with suppress(ValueError, RecursionError):  # the body is no JSON, or is no completion
                return Completion.model_validate(json.loads(reply))
            await asyncio.sleep(random.uniform(0.1, 0.3))
        shown = reply[:200].decode("utf-8", "replace").strip()
        raise PipelineError(f"{self.url} answers, but not with chat completions ({shown}). Check the URL. {SAVED}")

    async def models(self) -> list[str]:
        """Return the names of the models that the server lists; none where it sends something else."""
        try:
            listed = await self._json("/models", self._sdk.with_options(max_retries=1))
        except openai.NotFoundError:
            return []
        return [str(model["id"]) for model in listed if "id" in model]

    async def is_traitwatch(self) -> bool:
        """Tell whether the server is a Traitwatch server, which scores and counts whatever it is asked."""
        try:
            listed = await self._json("/traits", self._sdk.with_options(max_retries=0, timeout=_TRAITS_SECONDS))
        except openai.OpenAIError:
            return False
        return any("layer" in trait and "calibration" in trait for trait in listed)

    async def _json(self, path: str, sdk: openai.AsyncOpenAI) -> list[dict[str, Any]]:
        """Return the objects of the list at a path; none where the server sends something else."""
        # Read with the HTTP library: the SDK would make its own types of whatever comes.
        options: Any = {"headers": self._headers}
        response: httpx2.Response = await sdk.get(path, cast_to=httpx2.Response, options=options)
        try:
            data = json.loads(response.content)
        except (ValueError, RecursionError):
            return []
        listed = data.get("data") if isinstance(data, dict) else None
        return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []

    def plain_error(self, error: openai.OpenAIError, model: str) -> PipelineError:
        """Return an error of the SDK in plain words."""
        return plain_error(error, self.url, model, proxy_note(self._address))

    async def __aenter__(self) -> "ChatClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._sdk.close()

    async def _complete_with_waits(self, sdk: openai.AsyncOpenAI, params: dict[str, Any]) -> bytes:
        for waits_left in reversed(range(_LONG_WAITS)):
            try:
                reply = await sdk.chat.completions.with_raw_response.create(**params)
            except openai.APIStatusError as error:
                seconds = _retry_after(error.response.headers)
                # The SDK does the shorter waits itself; when it gives up, so does this client.
                if not (waits_left and _passing(error.status_code) and _SDK_WAITS < seconds <= _LONGEST_WAIT):
                    raise
                self._warn(f"{self.url} asks to wait for {seconds:.0f} seconds; waiting.")
                await _sleep(seconds)
            else:
                return bytes(reply.content)
        raise AssertionError("the last wait returns or raises")


def _of_environment(name: str) -> str | None:
    """Return a value that the SDK would send as a header; None where the environment has none."""
    value = os.environ.get(name)
    return checked_header(value, name) if value else None


def _passing(status: int) -> bool:
    return status in (408, 409, 429) or status >= 500


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that `Retry-After` demands, as a number or as a date; 0 where there is no such header."""
    value = headers.get("retry-after", "")
    seconds = 0.0
    with suppress(ValueError):
        seconds = float(value)
    with suppress(ValueError, TypeError, OverflowError, OSError):
        seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    return seconds if math.isfinite(seconds) else 0.0


def usage_of(reply: Completion) -> Usage:
    """Return the usage of a reply: one call, and the tokens where the server reports them."""
    if reply.usage is None:
        return Usage(calls=1)
    return Usage(1, reply.usage.prompt_tokens or 0, reply.usage.completion_tokens or 0)


def altered(params: dict[str, Any], error: openai.APIStatusError) -> dict[str, Any] | None:
    """Return the parameters without the one that the server rejected; None where its message names none of them.

    Newer models of OpenAI's want `max_completion_tokens` instead of `max_tokens`, reasoning models reject a
    temperature, and some servers reject a seed.
    """
    message = f"{error.param or ''} {server_message(error)}"
    if error.code == CONTENT_FILTER:
        return None
    if "max_tokens" in params and "max_completion_tokens" in message:
        return {("max_completion_tokens" if k == "max_tokens" else k): v for k, v in params.items()}
    if "json_schema" in message:
        message += " response_format"
    # The longer name first: `logprobs` is a part of `top_logprobs`.
    names = sorted(_ALTERABLE, key=len, reverse=True)
    rejected = next((name for name in names if name in params and name in message), None)
    return None if rejected is None else {k: v for k, v in params.items() if k != rejected}


def server_message(error: openai.APIError) -> str:
    """Return the server's own message, shortened."""
    body = error.body
    if isinstance(body, list) and body and isinstance(body[0], Mapping):  # Google's form
        body = body[0].get("error", body[0])
    if isinstance(body, Mapping):
        for key in ("message", "detail", "error"):
            if isinstance(body.get(key), str):
                return str(body[key])[:300]
    return error.message[:300]


def plain_error(error: openai.OpenAIError, url: str, model: str, way: str = "") -> PipelineError:
    """Return an error of the SDK in plain words: what failed, at which server, with which model, and what to do.

    Args:
        error: the error.
        url: the server's URL.
        model: the name of the model.
        way: a sentence about the way to the server (`traitwatch.network.proxy_note`); may be empty.
    """
    if isinstance(error, openai.APITimeoutError):
        late = f"{url} did not answer in time, though asked several times."
        return PipelineError(" ".join(filter(None, (late, way, SAVED))))
    if isinstance(error, openai.APIConnectionError):
        reason = error.__cause__ or error
        what = way or "Is it running, and is the URL right?"
        return PipelineError(f"{url} cannot be reached ({reason}). {what} {SAVED}")
    if not isinstance(error, openai.APIStatusError):
        return PipelineError(f"{url} could not be used: {error}. {SAVED}")
    message = server_message(error)
    if isinstance(error, openai.AuthenticationError):
        return PipelineError(f"{url} rejected the API key: {message} Check OPENAI_API_KEY. {SAVED}")
    if isinstance(error, openai.PermissionDeniedError):
        return PipelineError(f"{url} does not let this key use {model!r}: {message} Check the key's rights. {SAVED}")
    if isinstance(error, openai.NotFoundError):
        return PipelineError(f"{url} has no model {model!r}: {message} Check the model's name and the URL. {SAVED}")
    if error.code == "insufficient_quota":
        return PipelineError(f"{url}: the account's quota is used up: {message} Add credit, then go on. {SAVED}")
    if isinstance(error, openai.RateLimitError):
        seconds = _retry_after(error.response.headers)
        when = f"It asks to come back in {seconds / 60:.0f} minutes." if seconds > _SDK_WAITS else "Ask less at once."
        return PipelineError(f"{url} keeps saying that its limit is reached (429): {message} {when} {SAVED}")
    if isinstance(error, REJECTED):
        return PipelineError(f"{url} rejected the request ({error.status_code}): {message} {SAVED}")
    return PipelineError(f"{url} failed with status {error.status_code}, though asked several times: {message} {SAVED}")


async def in_parallel(work: Callable[[ItemT], Coroutine[Any, Any, None]], items: Iterable[ItemT], at_once: int) -> None:
    """Do asynchronous work on each item, at most `at_once` items at a time. The first error ends the work."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        first = errors.exceptions[0]
        raise first from first.__cause__


def in_background(work: Callable[[Callable[[ItemT], None]], Coroutine[Any, Any, None]]) -> Iterator[ItemT]:
    """Run asynchronous work in a thread with an event loop of its own, and yield each item that the work gives.

    Args:
        work: gets the function that gives an item.

    Yields:
        All items, as soon as they are given. If `work` fails, its error is raised after the last item. If the consumer
        stops early, the work is cancelled.
    """
    given: SimpleQueue[ItemT | None] = SimpleQueue()
    started: SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = SimpleQueue()

    async def main() -> None:
        task = asyncio.ensure_future(work(given.put))
        started.put((asyncio.get_running_loop(), task))
        await task

    with ThreadPoolExecutor(1, thread_name_prefix="requests") as pool:
        future = pool.submit(lambda: asyncio.run(main()))
        future.add_done_callback(lambda _: given.put(None))
        loop, task = started.get()
        try:
            while (item := given.get()) is not None:
                yield item
        finally:
            with suppress(RuntimeError):  # the loop is closed already: the work is done
                loop.call_soon_threadsafe(task.cancel)
        future.result()
