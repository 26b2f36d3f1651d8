"""Answers from OpenAI-compatible chat servers: one, or a fleet.

`EndpointAnswers` opens a client for each server and reads the replies. `EndpointFleet` shares the prompts out: each
server takes the next prompt when it has room, so a slow server gets fewer prompts. A server that fails is dropped with
a warning, and the other servers answer the prompts that it had taken.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import openai
from rich.console import Console

from traitwatch_builder.answering.source import Answer, ChatPrompt, Sampling
from traitwatch_builder.clients.address import NO_KEY, OPENAI_URL, key_for, server_url
from traitwatch_builder.clients.chat_completions import (
    REJECTED,
    SAVED,
    SCORES_ITSELF,
    ChatClient,
    Warn,
    altered,
    in_background,
    usage_of,
    warner,
)
from traitwatch_builder.clients.completion import Choice
from traitwatch_builder.clients.usage import Usage
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.models.chat import thinks_on, without_thinking
from traitwatch_builder.storage.answers import clean_text

ENDPOINT_RETRIES = 5  # by the SDK: about 15 seconds of backoff, then the other servers answer the prompt
_ANSWER_SECONDS = 600.0
_NAMED_MODELS = 10
# Errors of the configuration, not of one server: the other servers would give the same error.
_MISCONFIGURED = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError, *REJECTED)


@dataclass(eq=False)
class Endpoint:
    """A server that answers.

    Attributes:
        client: sends the requests.
        model: the server's name of the model.
        params: the parameters of its requests, beside model and messages, without the ones that the server rejects.
        tasks: the tasks that ask the server.
        dropped: whether the server failed; it gets no more prompts.
    """

    client: ChatClient
    model: str
    params: dict[str, Any]
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    dropped: bool = False

    def stop(self) -> None:
        """Cancel the tasks that ask the server, except for the task that calls this method."""
        for task in self.tasks:
            if task is not asyncio.current_task():
                task.cancel()


class EndpointFleet:
    """Servers that answer prompts together. Each server takes the next prompt when it has room.

    `run` starts several tasks for each server: every task is one request that the server may have open. A task runs
    `serve`, which calls `failed` when a request fails for good. The work ends when all prompts are answered, or when an
    error leaves no server to go on with.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        prompts: Sequence[ChatPrompt],
        ask: Callable[[Endpoint, ChatPrompt, int], Awaitable[Answer]],
        give: Callable[[tuple[int, Answer]], None],
        warn: Warn,
    ):
        """Prepare the work, inside a running event loop.

        Args:
            endpoints: the servers, at least one.
            prompts: the prompts, at least one.
            ask: asks a server for the answer to a prompt, given the prompt's index; errors of the SDK and
                `PipelineError` mean that the request failed for good.
            give: called with the index of a prompt and its answer, as soon as the answer exists.
            warn: called with a warning when a server is dropped.
        """
        self._endpoints = endpoints
        self._prompts = prompts
        self._ask = ask
        self._give = give
        self._warn = warn
        self._unanswered = len(prompts)
        self._waiting: asyncio.Queue[int] = asyncio.Queue()
        for index in range(len(prompts)):
            self._waiting.put_nowait(index)
        self._outcome: asyncio.Future[PipelineError | None] = asyncio.get_running_loop().create_future()

    async def run(self, in_flight: int) -> None:
        """Answer all prompts.

        Args:
            in_flight: requests that each server may have open at once.

        Raises:
            PipelineError: no server is left, or a server rejects the key, the model or a prompt.
        """
        async with asyncio.TaskGroup() as group:
            for endpoint in self._endpoints:
                for _ in range(min(in_flight, len(self._prompts))):
                    endpoint.tasks.append(group.create_task(self.serve(endpoint)))
            failure = await self._outcome
            for endpoint in self._endpoints:
                endpoint.stop()
        if failure is not None:
            raise failure

    async def serve(self, endpoint: Endpoint) -> None:
        """Have a server answer one prompt after another, until the server is dropped or the task is cancelled."""
        while not endpoint.dropped:
            index = await self._waiting.get()
            try:
                answer = await self._ask(endpoint, self._prompts[index], index)
            except (openai.OpenAIError, PipelineError) as error:
                self._waiting.put_nowait(index)
                self.failed(endpoint, error)
                return
            except asyncio.CancelledError:
                self._waiting.put_nowait(index)
                raise
            self._give((index, answer))
            self._unanswered -= 1
            if not self._unanswered:
                self._end(None)

    def failed(self, endpoint: Endpoint, error: openai.OpenAIError | PipelineError) -> None:
        """Drop a server whose request failed for good; end the work where the other servers cannot go on without it."""
        reason = error if isinstance(error, PipelineError) else endpoint.client.plain_error(error, endpoint.model)
        if isinstance(error, _MISCONFIGURED):
            self._end(reason)
        elif not endpoint.dropped:
            endpoint.dropped = True
            endpoint.stop()
            if all(other.dropped for other in self._endpoints):
                self._end(reason)
            else:
                self._warn(f"{endpoint.client.url} is dropped, the others go on: {reason}")

    def _end(self, failure: PipelineError | None) -> None:
        # Several tasks may end the work at once; the first outcome counts.
        if not self._outcome.done():
            self._outcome.set_result(failure)


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
        """Name the servers; no request is sent yet.

        Args:
            urls: the URLs of the servers, with or without `/v1`.
            sampling: how the servers draw answers.
            model: the model's name at every server; without it, each server's only model answers.
            api_key: the key for all servers; without it, OpenAI's own server gets the environment's `OPENAI_API_KEY`
                and other servers get none.
            in_flight: requests that each server may have open at once.
            send_seed: send the sampling's seed plus the prompt's index. A seed ends plain vLLM on a CPU when a prompt
                is prefilled in chunks.
            thinking_opened: whether the model's chat template ends inside the thinking.
            retries: how often a request is tried again before its server is dropped.
            console: where warnings are printed; without it, they are logged.

        Raises:
            NetworkError: an entry is not a URL.
            PipelineError: `urls` is empty.
        """
        if not urls:
            raise PipelineError("No server to ask for answers: name at least one by its URL.")
        self._urls = list(dict.fromkeys(server_url(url, "--endpoint") for url in urls))
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
            prompts: the conversations. The servers get the messages, and their chat templates make tokens of them.
            advance: called with the number of answers that have just arrived.

        Raises:
            PipelineError: no server is left, or a server rejects the key, the model or a prompt. Answers that were
                yielded before the error are valid.
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
            if not endpoints:
                urls = ", ".join(client.url for client in clients)
                raise PipelineError(f"None of the servers can be reached: {urls}. {SAVED}")
            await asyncio.gather(*(self._warn_of_traitwatch(endpoint.client) for endpoint in endpoints))
            await EndpointFleet(endpoints, prompts, self._ask, give, self._warn).run(self._in_flight)

    async def _warn_of_traitwatch(self, client: ChatClient) -> None:
        """Warn of a server that scores whatever it answers: questions of a build are no traffic of its users."""
        if client.url != OPENAI_URL and await client.is_traitwatch():
            self._warn(SCORES_ITSELF.format(url=client.url, what="The questions of the build"))

    def _key_of(self, url: str) -> str:
        # `OPENAI_API_KEY` is the judge's key: servers other than OpenAI's must not get it.
        return key_for(url, self._key or (None if url == OPENAI_URL else NO_KEY), "--endpoint-api-key")

    async def _endpoint(self, client: ChatClient) -> Endpoint | None:
        """Return a server and the name of its model. Where the server cannot be reached, warn and return None."""
        params: dict[str, Any] = {
            "temperature": self._sampling.temperature,
            "top_p": self._sampling.top_p,
            "max_tokens": self._sampling.max_tokens,
        }
        if self._send_seed:
            params["seed"] = self._sampling.seed
        if self._model is not None:
            return Endpoint(client, self._model, params)
        try:
            models = await client.models()
        except openai.OpenAIError as error:
            reason = client.plain_error(error, "")
            if isinstance(error, _MISCONFIGURED):
                raise reason from error
            self._warn(f"{client.url} is left out: {reason}")
            return None
        if len(models) != 1:
            listed = ", ".join(models[:_NAMED_MODELS]) + (", ..." if len(models) > _NAMED_MODELS else "")
            has = f"lists {len(models)} models ({listed})" if models else "lists no models"
            raise PipelineError(f"{client.url} {has}: name the model with --endpoint-model.")
        return Endpoint(client, models[0], params)

    async def _ask(self, endpoint: Endpoint, prompt: ChatPrompt, index: int) -> Answer:
        """Return a server's answer; send the request again without the parameters that the server rejects."""
        messages = [{**message, "content": clean_text(message["content"])} for message in prompt.messages]
        while True:
            sent = endpoint.params
            seeded = {**sent, "seed": sent["seed"] + index} if "seed" in sent else sent
            try:
                reply = await endpoint.client.complete(
                    seconds=_ANSWER_SECONDS, model=endpoint.model, messages=messages, **seeded
                )
            except REJECTED as error:
                fewer = altered(sent, error) or {}
                # 1 is the default of every server for both; another value must not be left out.
                needed = {name for name in ("temperature", "top_p") if sent.get(name, 1) != 1}
                if not fewer or not needed <= fewer.keys():
                    raise
                endpoint.params = fewer
            else:
                self._usage += usage_of(reply)
                return self._read(reply.choices[0])

    def _read(self, choice: Choice) -> Answer:
        text = choice.text
        # A server that removes the thinking removes its tags too.
        opened = self._thinking_opened and not choice.message.thinking
        finished = choice.finish_reason == "stop" and not thinks_on(text, opened)
        return Answer(without_thinking(text, opened).strip(), finished)
