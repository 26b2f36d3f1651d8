"""A client for one structured answer of Claude, over the `anthropic` SDK.

The client streams the answer: a long answer does not time out, and the user sees signs of progress. The API holds the
answer to a JSON schema. Thinking comes in blocks of its own and never reaches the answer. Models accept different
arguments. A model refuses an argument with status 400, which costs nothing. The client therefore tries several ways to
ask, from the best to the plainest (`ways`).

The SDK retries faults before the start of an answer (429, 5xx, no connection), with backoff and `Retry-After`. The SDK
does not retry faults in the middle of a stream: `Claude` retries these.
"""

import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import anthropic
import httpx2
from anthropic.types import RawMessageStreamEvent
from rich.console import Console
from rich.status import Status
from rich.text import Text

from traitwatch.network import checked_header, checked_key, checked_url, client_options, proxy_note, redacted
from traitwatch_builder.clients.usage import Usage
from traitwatch_builder.errors import PipelineError

MAX_TOKENS = 32_000
MAX_RETRIES = 6
# The longest silence of the API, in seconds. The API sends pings while a model thinks.
READ_TIMEOUT = 180.0
_STREAM_ATTEMPTS = 3
_STREAM_WAIT = 2.0
_TOOL = "give_definition"
_ANTHROPIC_URL = "https://api.anthropic.com"
_BASE_URL, _HEADERS = "ANTHROPIC_BASE_URL", "ANTHROPIC_CUSTOM_HEADERS"

WITHOUT_KEY = (
    "Without a key: `--print-prompt` prints a prompt to paste into any assistant, and `--from FILE` takes the JSON of "
    "the answer."
)


def ways(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the ways to ask for an answer of this JSON schema, as arguments of `messages.create`, best first.

    The last way forces a tool call, for models without structured output. The API allows no thinking beside a forced
    tool call.
    """
    structured: dict[str, Any] = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    tool = {"name": _TOOL, "description": "Hands the finished work over.", "input_schema": schema}
    return [
        {"thinking": {"type": "adaptive"}, **structured},
        {"thinking": {"type": "enabled", "budget_tokens": MAX_TOKENS // 4}, **structured},
        structured,
        {"tools": [tool], "tool_choice": {"type": "tool", "name": _TOOL}},
    ]


@dataclass
class _Answer:
    """The part of an answer that has arrived so far."""

    parts: list[str] = field(default_factory=list)
    written: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    stop_reason: str | None = None
    explanation: str = ""
    complete: bool = False

    def take(self, event: Any) -> None:
        """Add one event of the stream."""
        if event.type == "message_start":
            self._count(event.message.usage)
        elif event.type == "content_block_delta" and event.delta.type == "text_delta":
            self._write(event.delta.text)
        elif event.type == "content_block_delta" and event.delta.type == "input_json_delta":
            self._write(event.delta.partial_json)
        elif event.type == "message_delta":
            self._count(event.usage)
            self.stop_reason = event.delta.stop_reason
            self.explanation = getattr(event.delta.stop_details, "explanation", None) or ""
        elif event.type == "message_stop":
            self.complete = True

    def _write(self, text: Any) -> None:
        if not isinstance(text, str):
            raise TypeError("a part of the text is no text")
        self.parts.append(text)
        self.written += len(text)

    def _count(self, usage: Any) -> None:
        # The counts of a later event are totals. A later event may omit counts that have not changed.
        if usage is None:
            return
        cached = (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
        if usage.input_tokens is not None:
            self.input_tokens = usage.input_tokens + cached
        self.output_tokens = usage.output_tokens or self.output_tokens


class _FaultError(Exception):
    """A stream ended before the answer was complete."""


class Claude:
    """A Claude model that answers in the form of a JSON schema.

    Attributes:
        model: the model's name or alias.
        usage: the calls and tokens spent so far.
    """

    def __init__(self, model: str, schema: dict[str, Any], console: Console) -> None:
        """Prepare a client for the server, key and headers of the environment; the SDK may find another credential.

        Args:
            model: a Claude model's name or alias.
            schema: the JSON schema of the answers.
            console: the console that shows progress and retries.

        Raises:
            NetworkError: an address, a key, a header or a proxy of the environment cannot be used.
            PipelineError: no usable key exists, or the SDK cannot set up its client.
        """
        self.model = model
        self.usage = Usage()
        self._ways = ways(schema)
        self._console = console
        url = str(checked_url(os.environ.get(_BASE_URL) or _ANTHROPIC_URL, _BASE_URL))
        checked_header(os.environ.get(_HEADERS, "").replace("\n", " "), _HEADERS)
        # The SDK would pass on the environment's own spelling, for example a newline at its end. It takes one of both.
        own_key = _key_of("ANTHROPIC_API_KEY")
        token = None if own_key else _key_of("ANTHROPIC_AUTH_TOKEN")
        try:
            self._client = anthropic.Anthropic(
                api_key=own_key,
                auth_token=token,
                base_url=url if os.environ.get(_BASE_URL) else None,
                http_client=anthropic.DefaultHttpxClient(**client_options(url)),
                max_retries=MAX_RETRIES,
                timeout=httpx2.Timeout(READ_TIMEOUT, connect=10.0),
                middleware=[self._tell_retries],
            )
        except (anthropic.AnthropicError, httpx2.InvalidURL, ValueError, OSError) as error:
            raise PipelineError(f"The Anthropic client cannot be set up: {error}. {WITHOUT_KEY}") from error
        key = (self._client.api_key or self._client.auth_token or "").strip()
        if not key and self._client.credentials is None:
            raise PipelineError(f"No Anthropic key: set ANTHROPIC_API_KEY. {WITHOUT_KEY}")

    def ask(self, messages: list[dict[str, str]]) -> str:
        """Ask the model and return the text of the answer: JSON, if the model followed the schema.

        Args:
            messages: the conversation, in the API's form.

        Raises:
            PipelineError: the API rejected the key or the request, knows no such model, could not be reached, or still
                failed after all retries; the stream broke off on every attempt; or the model refused, or the answer
                was cut off.
        """
        try:
            answer = self._ask_some_way(messages)
        except anthropic.AnthropicError as error:
            raise PipelineError(self._error_text(error) + self._spent()) from error
        except _FaultError as error:
            raise PipelineError(
                f"The answer of {self.model} broke off {_STREAM_ATTEMPTS} times ({error}); try again later."
                + self._spent()
            ) from error
        if answer.stop_reason == "refusal":
            why = f" ({answer.explanation})" if answer.explanation else ""
            raise PipelineError(
                f"{self.model} refused to write this{why}. Explain with --description what the trait is and that it is "
                "to be detected, or choose another --claude-model, or write the definition yourself: see "
                f"--print-prompt.{self._spent()}"
            )
        if answer.stop_reason in ("max_tokens", "model_context_window_exceeded"):
            raise PipelineError(
                f"The answer of {self.model} was cut off after {answer.output_tokens:,} tokens ({answer.stop_reason}; "
                f"at most {MAX_TOKENS:,} were asked for). Try again, or choose another --claude-model.{self._spent()}"
            )
        return "".join(answer.parts)

    def _ask_some_way(self, messages: list[dict[str, str]]) -> _Answer:
        while True:
            try:
                return self._ask_until_whole(messages)
            except anthropic.BadRequestError as error:
                # The wording of the error may change, so the code does not read the wording. A fault in every way
                # reaches the user with the error of the last way.
                if len(self._ways) == 1:
                    raise
                self._ways.pop(0)
                self._console.print(f"{self.model}: {_message(error)} (400); asking in a plainer way.", markup=False)

    def _ask_until_whole(self, messages: list[dict[str, str]]) -> _Answer:
        for attempt in range(_STREAM_ATTEMPTS):
            answer = _Answer()
            try:
                self._stream(messages, answer)
                self.usage += Usage(1, answer.input_tokens, answer.output_tokens)
                return answer
            except (_FaultError, httpx2.HTTPError, json.JSONDecodeError, UnicodeDecodeError) as error:
                fault = f"{type(error).__name__}: {error}" if not isinstance(error, _FaultError) else str(error)
            except anthropic.APIStatusError as error:
                # The status of an error inside a stream is 200. The SDK has retried errors of any other status already.
                if error.status_code != 200 or error.type not in ("overloaded_error", "api_error", "rate_limit_error"):
                    raise
                fault = _message(error)
            self.usage += Usage(0, answer.input_tokens, answer.output_tokens)
            if attempt + 1 < _STREAM_ATTEMPTS:
                self._console.print(f"The answer broke off ({fault}); asking again.", markup=False)
                time.sleep(_STREAM_WAIT * 2**attempt * random.uniform(0.5, 1.0))
        raise _FaultError(fault)

    def _stream(self, messages: list[dict[str, str]], answer: _Answer) -> None:
        with self._console.status(Text(f"{self.model} is asked ...")) as status:
            create = cast(Callable[..., anthropic.Stream[RawMessageStreamEvent]], self._client.messages.create)
            with create(
                model=self.model, max_tokens=MAX_TOKENS, messages=messages, stream=True, **self._ways[0]
            ) as events:
                try:
                    for event in events:
                        answer.take(event)
                        self._show(status, answer)
                # The SDK builds its events from whatever comes, without a look at it.
                except (AttributeError, TypeError, KeyError, OverflowError) as error:
                    raise _FaultError(f"an event of its stream has another form: {error}") from error
        if not answer.complete or answer.stop_reason is None:
            raise _FaultError("its stream ended early")

    def _show(self, status: Status, answer: _Answer) -> None:
        doing = f"has written {answer.written:,} characters" if answer.written else "is thinking"
        status.update(Text(f"{self.model} {doing} ..."))

    def _tell_retries(self, request: Any, call_next: Any) -> Any:
        """Print a line before the SDK waits for a retry, since the pause may be long."""
        try:
            response = call_next(request)
        except anthropic.APIConnectionError as error:
            self._console.print(f"{self.model}: {error}", markup=False)
            raise
        if response.status_code == 429 or response.status_code >= 500:
            wait = response.headers.get("retry-after")
            pause = f"asked to wait {wait} s" if wait else "waiting a little before the next try"
            self._console.print(f"{self.model}: the API answered {response.status_code}; {pause}.", markup=False)
        return response

    def _error_text(self, error: anthropic.AnthropicError) -> str:
        """Return a message about an error: its meaning, and what to do."""
        text = _message(error)
        if isinstance(error, anthropic.AuthenticationError | anthropic.PermissionDeniedError):
            return f"Anthropic rejected the key ({error.status_code}: {text}). Check ANTHROPIC_API_KEY. {WITHOUT_KEY}"
        if isinstance(error, anthropic.NotFoundError):
            return f"{self.model}: no such model for this key ({text}); choose another with --claude-model."
        if isinstance(error, anthropic.RateLimitError):
            return f"Anthropic still limits the rate after {MAX_RETRIES} retries ({text}); try again later."
        if isinstance(error, anthropic.InternalServerError):
            return f"Anthropic still fails after {MAX_RETRIES} retries ({error.status_code}: {text}); try again later."
        if isinstance(error, anthropic.APIConnectionError):
            cause = f" ({error.__cause__})" if error.__cause__ else ""
            url = str(self._client.base_url)
            check = proxy_note(url) or "Check the network, the proxy and ANTHROPIC_BASE_URL."
            return f"Anthropic cannot be reached at {redacted(url)}: {text}{cause}. {check}"
        if isinstance(error, anthropic.APIStatusError):
            return f"Anthropic refused the request for {self.model} ({error.status_code}: {text})."
        return f"The request to {self.model} failed: {text}."

    def _spent(self) -> str:
        return f" Spent: {self.usage}." if self.usage != Usage() else ""


def _key_of(name: str) -> str | None:
    value = os.environ.get(name)
    return (checked_key(value, name) or None) if value else None


def _message(error: anthropic.AnthropicError) -> str:
    return (getattr(error, "api_message", None) or str(error)).rstrip(".")
