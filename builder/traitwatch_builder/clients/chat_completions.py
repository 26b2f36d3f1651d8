"""A client of servers that speak OpenAI's Chat Completions, for the judge and for answers.

The SDK retries 408, 409, 429, 5xx, time-outs and dropped connections with a growing, jittered delay. It obeys
`Retry-After` up to a minute (two minutes in newer versions). This module adds:

- `ChatClient`: one server. It waits longer where `Retry-After` demands it, and asks again after a garbled reply.
- `altered`: the parameters of a request without the one that the server rejected.
- `plain_error`: an error of the SDK in plain words.
- `in_parallel` and `in_background`: run asynchronous requests, several at a time, behind an ordinary generator.
"""

import asyncio
import email.utils
import logging
import os
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletion
from rich.console import Console
from rich.markup import escape

from traitwatch_builder.clients.usage import Usage
from traitwatch_builder.errors import PipelineError

logger = logging.getLogger(__name__)

ItemT = TypeVar("ItemT")

Warn = Callable[[str], None]

SAVED = "All results so far are saved, and the same command goes on from there."
REJECTED = (openai.BadRequestError, openai.UnprocessableEntityError)
"""Errors for a request that the server does not accept: the same request would fail again."""

OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = "EMPTY"
"""The key for servers that need none: the SDK demands one."""
_CONNECT_SECONDS = 10.0
_MODELS_SECONDS = 30.0
_SDK_WAITS = 60.0  # seconds: the longest `Retry-After` that every version of the SDK obeys by itself
_LONGEST_WAIT = 3600.0
_LONG_WAITS = 5
_GARBLED_TRIES = 3
_sleep = asyncio.sleep
_ALTERABLE = ("logprobs", "top_logprobs", "temperature", "top_p", "seed", "response_format")


def server_url(url: str | None) -> str:
    """Return the base URL of a server: the given URL, else the environment's `OPENAI_BASE_URL`, else OpenAI's own.

    `http://host:8000` is completed to `http://host:8000/v1`.

    Raises:
        PipelineError: the URL is not an http(s) URL.
    """
    url = (url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL).rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise PipelineError(f"{url!r} is not the URL of a server: give one like http://host:8000/v1.")
    return url if parts.path else f"{url}/v1"


def key_for(url: str, given: str | None) -> str:
    """Return the key for a server: the given key, else `OPENAI_API_KEY`, else the stand-in `NO_KEY`.

    Raises:
        PipelineError: the server is OpenAI's own, and there is no key.
    """
    key = given or os.environ.get("OPENAI_API_KEY")
    if not key and url == OPENAI_URL:
        raise PipelineError(f"{url} wants an API key: set OPENAI_API_KEY, or name a server of your own by its URL.")
    return key or NO_KEY


def warner(console: Console | None) -> Warn:
    """Return the function that warns the user: on a console, or in the log where there is no console."""
    if console is None:
        return logger.warning
    return lambda text: console.print(f"[yellow]Warning:[/] {escape(text)}")


class ChatClient:
    """One server, asked through the SDK. Use the client in an `async with` block, which closes its connections."""

    def __init__(self, url: str, key: str, retries: int, warn: Warn):
        """Make a client.

        Args:
            url: the server's URL, as `server_url` returns it.
            key: the server's key.
            retries: how often a request is tried again before it counts as failed.
            warn: called with a warning before a long wait.
        """
        self.url = url
        self._warn = warn
        self._sdk = openai.AsyncOpenAI(base_url=url, api_key=key, timeout=_MODELS_SECONDS, max_retries=retries)

    async def complete(self, *, seconds: float, retries: int | None = None, **params: Any) -> ChatCompletion:
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
        params["timeout"] = openai.Timeout(seconds, connect=_CONNECT_SECONDS)
        reply: Any = None
        for _ in range(_GARBLED_TRIES):
            try:
                reply = await self._complete_with_waits(sdk, params)
            except ValueError as error:  # the body is no JSON, although its content type is JSON
                reply = error
            if isinstance(reply, ChatCompletion) and reply.choices:
                return reply
            await asyncio.sleep(random.uniform(0.1, 0.3))
        raise PipelineError(
            f"{self.url} answers, but not with chat completions ({str(reply)[:200]}). Check the URL. {SAVED}"
        )

    async def models(self) -> list[str]:
        """Return the names of the models that the server lists; none where it sends something else."""
        try:
            page: Any = await self._sdk.with_options(max_retries=1).models.list()
        # ValueError: the body is no JSON. AttributeError: the body is a web page.
        except (openai.NotFoundError, ValueError, AttributeError):
            return []
        return [str(model.id) for model in getattr(page, "data", None) or []]

    async def __aenter__(self) -> "ChatClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._sdk.close()

    async def _complete_with_waits(self, sdk: openai.AsyncOpenAI, params: dict[str, Any]) -> ChatCompletion:
        for waits_left in reversed(range(_LONG_WAITS)):
            try:
                reply: ChatCompletion = await sdk.chat.completions.create(**params)
            except openai.APIStatusError as error:
                seconds = _retry_after(error.response.headers)
                # The SDK does the shorter waits itself; when it gives up, so does this client.
                if not (waits_left and _passing(error.status_code) and _SDK_WAITS < seconds <= _LONGEST_WAIT):
                    raise
                self._warn(f"{self.url} asks to wait for {seconds:.0f} seconds; waiting.")
                await _sleep(seconds)
            else:
                return reply
        raise AssertionError("the last wait returns or raises")


def _passing(status: int) -> bool:
    return status in (408, 409, 429) or status >= 500


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that `Retry-After` demands, as a number or as a date; 0 where there is no such header."""
    value = headers.get("retry-after", "")
    with suppress(ValueError):
        return float(value)
    with suppress(ValueError):
        return email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    return 0.0


def usage_of(reply: ChatCompletion) -> Usage:
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
    if isinstance(body, Mapping):
        for key in ("message", "detail", "error"):
            if isinstance(body.get(key), str):
                return str(body[key])[:300]
    return error.message[:300]


def plain_error(error: openai.OpenAIError, url: str, model: str) -> PipelineError:
    """Return an error of the SDK in plain words: what failed, at which server, with which model, and what to do."""
    if isinstance(error, openai.APITimeoutError):
        return PipelineError(f"{url} did not answer in time, though asked several times. {SAVED}")
    if isinstance(error, openai.APIConnectionError):
        reason = error.__cause__ or error
        return PipelineError(f"{url} cannot be reached ({reason}). Is it running, and is the URL right? {SAVED}")
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
