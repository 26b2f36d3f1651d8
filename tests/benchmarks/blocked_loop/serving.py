"""Our part of an API process, with stand-ins for vLLM's endpoint and engine. The worker is a process of its own."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.types import Message, Receive, Scope, Send
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from tests.benchmarks.blocked_loop.worker import LAYER, Work, Worker, token_ids
from tests.support.traits import served_trait
from traitwatch_server.app.draining import Draining
from traitwatch_server.app.engine import watch
from traitwatch_server.ledger.receiver import Receiver
from traitwatch_server.metrics import Metrics
from traitwatch_server.monitor import Monitor
from traitwatch_server.recording.spike_log import SpikeLog
from traitwatch_server.responses.middleware import TraitsMiddleware
from traitwatch_server.traits import trait_set
from traitwatch_server.wire import PROMPT_KEY, REQUEST_KEY


@dataclass(frozen=True)
class Case:
    """A request.

    Attributes:
        prompt: tokens of the prompt.
        tokens: tokens of each choice.
        n: choices of each call.
        calls: calls of the engine.
        stream: whether the answer is a stream: an event of the first token, and one with everything else.
        body: the request's `traits`, and fields beside it.
        spiky: whether there are as many spikes as there can be.
        filler: bytes of vLLM's own answer beside the text, as of log probabilities.
    """

    prompt: int = 64
    tokens: int = 64
    n: int = 1
    calls: int = 1
    stream: bool = False
    body: dict[str, Any] = field(default_factory=lambda: {"traits": True})
    spiky: bool = False
    filler: int = 0

    @property
    def num_choices(self) -> int:
        """Choices of the response."""
        return self.n * self.calls


class Serving:
    """One API process with some traits, and its worker."""

    def __init__(self, monitor: Monitor, worker: Worker):
        """Wrap the engine."""
        self.monitor = monitor
        self._worker = worker
        watch(self, monitor, Draining(0))  # type: ignore[arg-type]
        self._app = TraitsMiddleware(self._endpoint, lambda: monitor)
        self.prepare(Case())

    def prepare(self, case: Case) -> None:
        """Make what stands for the client and for vLLM, before anything is measured."""
        choices = [{"index": i, "text": "x" * 100} for i in range(case.num_choices)]
        if case.filler:
            choices[0]["logprobs"] = [{"token": "abc", "logprob": -1.2345, "bytes": [97, 98]}] * (case.filler // 56)
        self._case = case
        self._answer: bytes = json.dumps({"id": "x", "choices": choices}).encode()
        self._body = json.dumps({"model": "m", **case.body}).encode()
        ids = token_ids(case.prompt + case.tokens)
        self._prompt, self._tokens = ids[: case.prompt], ids[case.prompt :]

    async def request(self) -> list[bytes]:
        """Send the prepared request through the middleware; return its answer, once it is recorded too."""
        body = self._body
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        answer: list[bytes] = []

        async def receive() -> Message:
            return waiting.pop(0) if waiting else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            answer.append(message.get("body", b""))

        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        path = "/v1/completions"
        await self._app({"type": "http", "method": "POST", "path": path, "headers": headers}, receive, send)
        while len(self.monitor.ledger):
            await asyncio.sleep(0.01)
        return answer

    def check(self, answer: list[bytes]) -> int:
        """Return the bytes of an answer; raise `AssertionError` where a choice is not complete."""
        complete = b"".join(answer).count(b'"traits_complete":true')
        assert complete == self._case.num_choices, f"{complete} of {self._case.num_choices} choices are complete"
        return sum(map(len, answer))

    async def _endpoint(self, scope: Scope, receive: Receive, send: Send) -> None:
        case = self._case
        while (await receive()).get("more_body", False):
            pass
        media = "text/event-stream" if case.stream else "application/json"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", media.encode())]})
        kind = RequestOutputKind.DELTA if case.stream else RequestOutputKind.FINAL_ONLY
        params = SamplingParams(n=case.n, output_kind=kind)
        streams = [self.generate({}, params, f"cmpl-{i}") for i in range(case.calls)]
        await asyncio.gather(*(self._serve(stream, send) for stream in streams))
        body = b"data: [DONE]\n\n" if case.stream else self._answer
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _serve(self, stream: Any, send: Send) -> None:
        async for output in stream:
            if self._case.stream:
                for part in output.outputs:
                    reason = "stop" if output.finished else None
                    choice = {"index": part.index, "text": "x", "finish_reason": reason}
                    event = b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
                    await send({"type": "http.response.body", "body": event, "more_body": True})

    async def generate(self, prompt: Any, params: Any, request_id: str, **options: Any) -> AsyncIterator[Any]:
        """Stand in for the engine: the worker sends all rows, and then come the tokens."""
        case = self._case
        extra = params.extra_args or {}
        yield SimpleNamespace(prompt_token_ids=self._prompt, outputs=[], finished=False)
        for index in range(case.n):
            req_id = f"{index}_{request_id}" if case.n > 1 else request_id
            with_prompt = PROMPT_KEY in extra
            work = Work(extra[REQUEST_KEY], req_id, case.prompt, with_prompt, case.tokens, case.spiky)
            await asyncio.to_thread(self._worker.send, work)
        # All rows are on their way; the last tokens overtake them.
        answer = self._tokens
        steps = [(0, 1, False), (1, case.tokens, True)] if case.stream else [(0, case.tokens, True)]
        for start, end, finished in steps:
            parts = [SimpleNamespace(index=index, token_ids=answer[start:end]) for index in range(case.n)]
            yield SimpleNamespace(prompt_token_ids=self._prompt, outputs=parts, finished=finished)
            await asyncio.sleep(0)


@asynccontextmanager
async def serving(num_traits: int, directory: Path, registry: CollectorRegistry) -> AsyncIterator[Serving]:
    """Bring up an API process with `num_traits` traits and a log of spikes."""
    traits = [
        served_trait(f"trait-{i:02}", layer=LAYER, column=i, mean=0.1, std=1.7, threshold=2.0)
        for i in range(num_traits)
    ]
    metrics = Metrics(registry)
    receiver = Receiver(metrics, directory)
    log = SpikeLog(str(directory / "spikes.jsonl"), dropped=lambda count: None)
    monitor = Monitor(trait_set(traits), "tokens", receiver.api_process, metrics, "m", [log])
    tasks = [
        asyncio.create_task(receiver.run(monitor.ledger.deliver)),
        asyncio.create_task(monitor.recorder.flush_at_intervals()),
    ]
    worker = await asyncio.to_thread(Worker, receiver.api_process, receiver.endpoint, num_traits)
    try:
        yield Serving(monitor, worker)
    finally:
        await asyncio.to_thread(worker.close)
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await asyncio.to_thread(log.close)
