"""Replies in the wire format of OpenAI's Chat Completions: answers, log-probabilities, errors, the list of models."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.wire.http import Reply, Request

INPUT_TOKENS = 300
OUTPUT_TOKENS = 7
PROBE = "Write the number 85"
CLEAR, JUMBLED = "The capital of France is Paris.", "seven of the because lamp"


def completion(
    *texts: str | None,
    tokens: Sequence[Mapping[str, float]] | None = None,
    finish_reason: str = "stop",
    delay: float = 0.0,
    **message: Any,
) -> Reply:
    """Return a chat completion.

    Args:
        texts: the content of each choice.
        tokens: for each generated token, its candidates with their probabilities, the generated token first. Without
            `tokens`, the reply has no log-probabilities.
        finish_reason: the finish reason of every choice.
        delay: seconds before the reply is sent.
        message: further fields of the messages, e.g. `reasoning_content` or `refusal`.
    """
    content = None if tokens is None else [_token(candidates) for candidates in tokens]
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None, **message},
            "logprobs": None if content is None else {"content": content, "refusal": None},
            "finish_reason": finish_reason,
        }
        for index, text in enumerate(texts)
    ]
    usage = {
        "prompt_tokens": INPUT_TOKENS,
        "completion_tokens": OUTPUT_TOKENS,
        "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
    }
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "model",
        "choices": choices,
        "usage": usage,
    }
    return Reply(body, delay=delay)


def first_token(candidates: Mapping[str, float], **options: Any) -> Reply:
    """Return a completion of one token. `candidates` and `options` are those of `completion`."""
    return completion(next(iter(candidates)), tokens=[candidates], finish_reason="length", **options)


def spelled(*tokens: str) -> Reply:
    """Return a completion of these tokens. Each has a probability of almost 1."""
    return completion("".join(tokens), tokens=[{token: 0.99} for token in tokens])


def error(status: int, message: str, *, code: str | None = None, param: str | None = None, **headers: str) -> Reply:
    """Return an error; `retry_after="1"` becomes the header `retry-after: 1`."""
    body = {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}
    return Reply(body, status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})


def models(*names: str) -> Reply:
    """Return the list of a server's models."""
    data = [{"id": name, "object": "model", "created": 1, "owned_by": "me"} for name in names]
    return Reply({"object": "list", "data": data})


def last_message(request: Request) -> str:
    """Return the text of the last message of a request; empty for a request without a body."""
    text: str = request.body["messages"][-1]["content"] if request.body is not None else ""
    return text


def is_probe(request: Request) -> bool:
    """Return whether a request probes the abilities of the model."""
    return last_message(request).startswith(PROBE)


def is_check(request: Request) -> bool:
    """Return whether a request asks for a score that is known (`judging.probe`), or looks for a Traitwatch server."""
    return request.body is None or any(text in last_message(request) for text in (CLEAR, JUMBLED))


def sane(request: Request, clear: str = "97", jumbled: str = "3") -> Reply:
    """Answer such a request as a good judge does, in whatever way the judge is asked."""
    if request.body is None:
        return error(404, "no such path")
    number = clear if CLEAR in last_message(request) else jumbled
    return completion(*[number] * request.body.get("n", 1), tokens=[{number: 0.99}])


def _token(candidates: Mapping[str, float]) -> dict[str, Any]:
    entries = [
        {"token": token, "logprob": math.log(probability), "bytes": list(token.encode())}
        for token, probability in candidates.items()
    ]
    return {**entries[0], "top_logprobs": entries}
