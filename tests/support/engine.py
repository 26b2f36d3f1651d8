"""A stand-in for vLLM's engine client: it generates given tokens, and its worker sends the rows of each pass."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from tests.support.frames import SentRows, frame
from traitwatch_server.ledger.ledger import Ledger
from traitwatch_server.wire import PROMPT_KEY, REQUEST_KEY

PROMPT = [100, 101, 102]
# Ids of the tokens of choice 0, 1, ...
TOKENS = ([7, 8, 9], [17, 18, 19], [27, 28, 29])


def projection(token_id: int) -> float:
    """Return the projection that the worker sends for a token."""
    return token_id / 2


class Engine:
    """Generates `TOKENS`, one token a pass. The worker's rows of a pass come before the outputs of the pass.

    Attributes:
        ledger: the ledger that receives the rows.
        seen: the sampling parameters of each call.
        request_ids: the request id of each call.
        lost: the indexes of the choices whose rows are lost.
        overtaken: whether the outputs of a pass come before its rows, as sometimes happens in a real server.
        closed: the number of calls that have ended or were closed.
    """

    def __init__(self, ledger: Ledger, tokens: Sequence[Sequence[int]] = TOKENS, lost: Sequence[int] = ()) -> None:
        self.ledger = ledger
        self.seen: list[SamplingParams] = []
        self.request_ids: list[str] = []
        self.lost = lost
        self.overtaken = False
        self.closed = 0
        self._tokens = tokens

    async def generate(
        self, prompt: Any, sampling_params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncIterator[Any]:
        self.seen.append(sampling_params)
        self.request_ids.append(request_id)
        kind = sampling_params.output_kind
        try:
            for step in range(len(self._tokens[0])):
                for index in range(sampling_params.n):
                    if self.overtaken:
                        loop = asyncio.get_running_loop()
                        loop.call_later(0.002, self._send, sampling_params, request_id, index, step)
                    else:
                        self._send(sampling_params, request_id, index, step)
                await asyncio.sleep(0)
                if kind != RequestOutputKind.FINAL_ONLY:
                    yield self._output(sampling_params, step, step if kind == RequestOutputKind.DELTA else 0)
            if kind == RequestOutputKind.FINAL_ONLY:
                yield self._output(sampling_params, len(self._tokens[0]) - 1, 0)
        finally:
            self.closed += 1

    def _output(self, params: SamplingParams, step: int, first: int) -> Any:
        parts = [
            SimpleNamespace(index=index, token_ids=list(self._tokens[index][first : step + 1]))
            for index in range(params.n)
        ]
        finished = step == len(self._tokens[0]) - 1
        return SimpleNamespace(prompt_token_ids=PROMPT, outputs=parts, finished=finished)

    def _send(self, params: SamplingParams, request_id: str, index: int, step: int) -> None:
        """Send the rows of a pass: of the prompt first, then of the token that was generated in the pass before."""
        extra = params.extra_args or {}
        key = extra.get(REQUEST_KEY)
        if key is None or step - 1 in self.lost:
            return
        req_id = f"{index}_{request_id}-abc" if params.n > 1 else f"{request_id}-abc"
        text = [*PROMPT, *self._tokens[index]]
        position = len(PROMPT) - 1 + step
        first = 0 if step == 0 and extra.get(PROMPT_KEY) else position
        ids = text[first : position + 1]
        run = SentRows(key, req_id, len(PROMPT), range(first, position + 1), ids, [projection(i) for i in ids])
        self.ledger.deliver(frame(run))
