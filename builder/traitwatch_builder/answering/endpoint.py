"""Answers from OpenAI-compatible chat servers: one, or a fleet.

Every server takes the next prompt when it has room, so a slow one gets fewer. One that fails is dropped with a
warning, and what it had taken goes to the others.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import openai
from openai.types.chat.chat_completion import Choice
from rich.console import Console

from traitwatch_builder.answering.source import Answer, ChatPrompt, Sampling
from traitwatch_builder.clients.chat_completions import (
    KEPT,
    NO_KEY,
    OPENAI_URL,
    REJECTED,
    ChatClient,
    altered,
    in_background,
    key_for,
    plain_error,
    server_url,
    usage_of,
    warner,
)
from traitwatch_builder.clients.usage import Usage
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.models.chat import thinks_on, without_thinking
from traitwatch_builder.storage.answers import clean_text

ENDPOINT_RETRIES = 5  # of the SDK: about 15 seconds of backoff, then the server's prompts go to others
_SECONDS = 600.0
_LISTED = 10


# The configuration is wrong, not one server in trouble: the others would not help.
_MISCONFIGURED = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError, *REJECTED)


@dataclass(eq=False)
class _Endpoint:
    """A server, while answers are asked for.

    Attributes:
        client: asks it.
        model: the name of the model to ask it for.
        params: of its requests, beside model and messages, without those that it rejects.
        tasks: those that ask it.
        dropped: it failed, and gets no more.
    """

    client: ChatClient
    model: str
    params: dict[str, Any]
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    dropped: bool = False


class EndpointAnswers:
    """Answers conversations by asking servers."""

    def __init__(
        self,
        urls: Sequence[str],
        sampling: Sampling,
        model: str | None = None,
        api_key: str | None = None,
        in_flight: int = 64,
        send_seed: bool = False,
        thinking_opened: bool = False,
        retries: int = ENDPOINT_RETRIES,
        console: Console | None = None,
    ):
        """Name the servers; nothing is asked yet.

        Args:
            urls: of the servers, with or without `/v1`.
            sampling: how answers are drawn.
            model: its name at every server; without it, each server's only model.
            api_key: for all of them; without it none, or for OpenAI's own the environment's `OPENAI_API_KEY`.
            in_flight: requests open at once at each server, at most.
            send_seed: send the sampling's seed plus the prompt's index. A seed ends plain vLLM on a CPU when a prompt
                is prefilled in chunks.
            thinking_opened: the model's chat template ends inside the thinking.
            retries: how often a request is tried again before its server is dropped.
            console: where warnings are shown; without it they are logged.

        Raises:
            PipelineError: no server, or something that is no URL.
        """
        if not urls:
            raise PipelineError("No server to ask for answers: name at least one by its URL.")
        self._urls = list(dict.fromkeys(server_url(url) for url in urls))
        self._sampling = sampling
        self._model = model
        self._key = api_key
        self._in_flight = in_flight
        self._send_seed = send_seed
        self._thinking_opened = thinking_opened
        self._retries = retries
        self._warn = warner(console)
        self._usage = Usage()

    @property
    def usage(self) -> Usage:
        """Calls and tokens spent so far."""
        return self._usage

    def answer(self, prompts: Sequence[ChatPrompt], advance: Callable[[int], None]) -> Iterator[tuple[int, Answer]]:
        """Answer conversations, as `traitwatch_builder.answering.source.Answers` promises.

        Args:
            prompts: the conversations; their messages are sent, and the servers' templates make tokens of them.
            advance: called with the number of answers that have just come.

        Raises:
            PipelineError: no server is left, or one rejects the key, the model or a prompt; what was yielded before
                is valid.
        """
        if not prompts:
            return
        answers: Iterator[tuple[int, Answer]] = in_background(lambda give: self._answer_all(prompts, give))
        for answer in answers:
            advance(1)
            yield answer

    async def _answer_all(self, prompts: Sequence[ChatPrompt], give: Callable[[tuple[int, Answer]], None]) -> None:
        async with AsyncExitStack() as stack:
            clients = [ChatClient(url, self._key_of(url), self._retries, self._warn) for url in self._urls]
            for client in clients:
                await stack.enter_async_context(client)
            found = await asyncio.gather(*(self._endpoint(client) for client in clients))
            endpoints = [endpoint for endpoint in found if endpoint is not None]
            names = sorted({endpoint.model for endpoint in endpoints})
            if len(names) > 1:
                self._warn(f"the servers name their models differently: {', '.join(names)}. Are they the same?")
            await self._share(endpoints, prompts, give)

    def _key_of(self, url: str) -> str:
        # The judge's key is OpenAI's, and no business of a fleet's.
        return key_for(url, self._key or (None if url == OPENAI_URL else NO_KEY))

    async def _endpoint(self, client: ChatClient) -> _Endpoint | None:
        """Return a server with the model to ask it for; None, with a warning, where it cannot be reached."""
        params: dict[str, Any] = {
            "temperature": self._sampling.temperature,
            "top_p": self._sampling.top_p,
            "max_tokens": self._sampling.max_tokens,
        }
        if self._send_seed:
            params["seed"] = self._sampling.seed
        if self._model is not None:
            return _Endpoint(client, self._model, params)
        try:
            models = await client.models()
        except openai.OpenAIError as error:
            reason = plain_error(error, client.url, "")
            if isinstance(error, _MISCONFIGURED):
                raise reason from error
            self._warn(f"{client.url} is left out: {reason}")
            return None
        if len(models) != 1:
            listed = ", ".join(models[:_LISTED]) + (", ..." if len(models) > _LISTED else "")
            has = f"lists {len(models)} models ({listed})" if models else "lists no models"
            raise PipelineError(f"{client.url} {has}: say by --endpoint-model which one is to answer.")
        return _Endpoint(client, models[0], params)

    async def _share(
        self,
        endpoints: Sequence[_Endpoint],
        prompts: Sequence[ChatPrompt],
        give: Callable[[tuple[int, Answer]], None],
    ) -> None:
        """Let the servers answer all prompts, each taking the next one when it has room."""
        waiting: asyncio.Queue[int] = asyncio.Queue()
        for index in range(len(prompts)):
            waiting.put_nowait(index)
        left = len(prompts)
        outcome: asyncio.Queue[PipelineError | None] = asyncio.Queue()

        def failed(endpoint: _Endpoint, error: openai.OpenAIError | PipelineError) -> None:
            if isinstance(error, PipelineError):
                reason = error
            else:
                reason = plain_error(error, endpoint.client.url, endpoint.model)
            if isinstance(error, _MISCONFIGURED):
                outcome.put_nowait(reason)
            elif not endpoint.dropped:
                endpoint.dropped = True
                for task in endpoint.tasks:
                    if task is not asyncio.current_task():
                        task.cancel()
                if all(other.dropped for other in endpoints):
                    outcome.put_nowait(reason)
                else:
                    self._warn(f"{endpoint.client.url} is dropped, the others go on: {reason}")

        async def serve(endpoint: _Endpoint) -> None:
            nonlocal left
            while not endpoint.dropped:
                index = await waiting.get()
                try:
                    answer = await self._ask(endpoint, prompts[index], index)
                except (openai.OpenAIError, PipelineError) as error:
                    waiting.put_nowait(index)
                    failed(endpoint, error)
                    return
                except asyncio.CancelledError:
                    waiting.put_nowait(index)
                    raise
                give((index, answer))
                left -= 1
                if not left:
                    outcome.put_nowait(None)

        if not endpoints:
            raise PipelineError(f"None of the servers can be reached: {', '.join(self._urls)}. {KEPT}")
        async with asyncio.TaskGroup() as group:
            for endpoint in endpoints:
                for _ in range(min(self._in_flight, len(prompts))):
                    endpoint.tasks.append(group.create_task(serve(endpoint)))
            failure = await outcome.get()
            for endpoint in endpoints:
                for task in endpoint.tasks:
                    task.cancel()
        if failure is not None:
            raise failure

    async def _ask(self, endpoint: _Endpoint, prompt: ChatPrompt, index: int) -> Answer:
        messages = [{**message, "content": clean_text(message["content"])} for message in prompt.messages]
        while True:
            sent = endpoint.params
            seeded = {**sent, "seed": sent["seed"] + index} if "seed" in sent else sent
            try:
                reply = await endpoint.client.complete(
                    seconds=_SECONDS, model=endpoint.model, messages=messages, **seeded
                )
            except REJECTED as error:
                fewer = altered(sent, error) or {}
                # A temperature or top_p of 1 is what a server takes without being told; any other is meant.
                meant = {name for name in ("temperature", "top_p") if sent.get(name, 1) != 1}
                if not fewer or not meant <= fewer.keys():
                    raise
                endpoint.params = fewer
            else:
                self._usage += usage_of(reply)
                return self._read(reply.choices[0])

    def _read(self, choice: Choice) -> Answer:
        text = choice.message.content or ""
        extra = choice.message.model_extra or {}
        # A server that took the thinking out leaves no tag behind.
        opened = self._thinking_opened and not (extra.get("reasoning_content") or extra.get("reasoning"))
        finished = choice.finish_reason == "stop" and not thinks_on(text, opened)
        return Answer(without_thinking(text, opened).strip(), finished)
