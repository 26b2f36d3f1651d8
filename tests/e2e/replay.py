"""A stand-in for a fast server, for two things that the embedded model cannot do.

It answers thousands of tokens within seconds, and the test chooses the words. The stand-in speaks the server's wire
format and nothing else. Everything that can be tested against the real server is tested against the real server.
"""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.e2e.hosted import hosted

TRAITS = ("alignment-theatre", "corrigibility", "deception", "manipulativeness", "paternalism", "power-seeking")
MEAN, STD, THRESHOLD = -10.0, 14.0, 3.0


def projection(trait: int, token: int) -> float:
    return MEAN + STD * 4 * math.sin(token / 40 + trait)


def _listed() -> list[dict[str, object]]:
    return [
        {
            "id": name,
            "layer": 20,
            "calibration": {"mean": MEAN, "std": STD},
            "threshold": {"z": THRESHOLD, "rate": 0.01},
        }
        for name in TRAITS
    ]


def _event(index: int, token: str, *, last: bool) -> bytes:
    choice: dict[str, object] = {
        "index": 0,
        "delta": {"content": token},
        "logprobs": {"content": [{"token": token, "logprob": -0.1, "bytes": None, "top_logprobs": []}]},
        "finish_reason": "length" if last else None,
    }
    if index:
        scores = {name: {"start": index - 1, "tokens": [projection(k, index - 1)]} for k, name in enumerate(TRAITS)}
        choice["traits"] = scores
    if last:
        choice["traits_complete"] = True
    event = {"id": "replay", "object": "chat.completion.chunk", "created": 0, "model": "replay", "choices": [choice]}
    return f"data: {json.dumps(event)}\n\n".encode()


def _no_such(model: str) -> JSONResponse:
    return JSONResponse({"error": {"message": f"The model `{model}` does not exist."}}, 404)


@contextmanager
def replaying(
    tokens: Sequence[str], pace: float, *, name: str = "replay", adapters: Mapping[str, Sequence[str]] | None = None
) -> Iterator[str]:
    """Serve an answer of these tokens; yield the server's address.

    Args:
        tokens: the answer.
        pace: seconds between two tokens.
        name: the name of the model.
        adapters: further models: the tokens of their answers by name.
    """
    answers = {name: tokens, **(adapters or {})}

    async def answer(request: Request) -> Response:
        model = (await request.json())["model"]
        if model not in answers:
            return _no_such(model)
        tokens = answers[model]

        async def events() -> AsyncIterator[bytes]:
            for i, token in enumerate(tokens):
                yield _event(i, token, last=i == len(tokens) - 1)
                await asyncio.sleep(pace)
            yield b"data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    async def tokenize(request: Request) -> JSONResponse:
        body = await request.json()
        if body["model"] not in answers:
            return _no_such(body["model"])
        return JSONResponse({"tokens": [ord(c) for c in body["prompt"]]})

    async def completion(request: Request) -> JSONResponse:
        body = await request.json()
        ids = body["prompt"]
        scores = {name: {"prompt_tokens": [projection(k, i) for i in range(len(ids))]} for k, name in enumerate(TRAITS)}
        choice = {"text": "", "logprobs": {"tokens": [chr(i) for i in ids]}, "traits": scores}
        return JSONResponse({"choices": [choice]})

    async def models(_: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [{"id": model, "object": "model"} for model in answers]})

    async def traits(_: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": _listed()})

    routes = [
        Route("/v1/models", models),
        Route("/v1/traits", traits),
        Route("/tokenize", tokenize, methods=["POST"]),
        Route("/v1/completions", completion, methods=["POST"]),
        Route("/v1/chat/completions", answer, methods=["POST"]),
    ]
    with hosted(Starlette(routes=routes)) as address:
        yield address
