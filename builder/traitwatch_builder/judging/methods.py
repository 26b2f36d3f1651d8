"""How a model is asked for a score, and how the score is read from its reply.

`choose_way` asks the model for the number 85 and chooses from the reply: *logprobs* where the model returns
log-probabilities and writes 85 as one token; *samples* where the model spells the number digit by digit, so that the
first token is only a digit; *integer*, in structured output, for all other models.

`score_of_logprobs`, `score_of_samples` and `score_of_integer` read the score, one function a way.
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import openai
from openai.types.chat import ChatCompletion
from openai.types.chat.chat_completion import Choice

from traitwatch_builder.clients.chat_completions import REJECTED, altered, server_message
from traitwatch_builder.models.chat import without_thinking

Method = Literal["logprobs", "samples", "integer"]

SAMPLES_PER_SCORE = 10
INTEGER_ADDITION = (
    '\n\nWrite the answer as JSON: {"score": NUMBER, "refusal": false}, '
    'or {"score": null, "refusal": true} where the answer is REFUSAL.'
)
INTEGER_FORMAT = {
    "type": "json_schema",
    "json_schema": {
        "name": "judgement",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "score": {"type": ["integer", "null"], "minimum": 0, "maximum": 100},
                "refusal": {"type": "boolean"},
            },
            "required": ["score", "refusal"],
            "additionalProperties": False,
        },
    },
}
_PROBE = "Write the number 85 and nothing else."
_PROBE_RETRIES = 2  # until the server has answered once, so that a wrong URL shows soon
_INTEGER_TOKENS = 4096  # room for thinking, and a bound on the cost of an endless reply
_LEAST_SHARE = 0.25  # of the probability, or of the samples, that numbers must have


@dataclass(frozen=True)
class Way:
    """How a model is asked.

    Attributes:
        method: how the score is read from a reply.
        params: the parameters of every request, beside model and message.
    """

    method: Method
    params: dict[str, Any]


class Ask(Protocol):
    """Sends one user message to the model."""

    async def __call__(self, params: dict[str, Any], message: str, retries: int | None = None) -> ChatCompletion:
        """Send the message with the parameters of a `Way`; try again at most `retries` times (None: as usual)."""
        ...


async def choose_way(ask: Ask) -> Way:
    """Return the way to ask a model.

    Raises:
        openai.OpenAIError: from `ask`. A server that does not answer at all is given up soon.
    """
    one_token = {"max_tokens": 4, "temperature": 0, "logprobs": True, "top_logprobs": 20, "seed": 0}
    found = await _adapting(ask, one_token, needed=("logprobs", "top_logprobs", "temperature"))
    method: Method = "integer"
    limit = "max_tokens"
    if found is not None:
        reply, params = found
        method = method_for(reply.choices[0])
        limit = "max_tokens" if "max_tokens" in params else "max_completion_tokens"
        if method == "logprobs":
            return Way(method, {**params, limit: 1})
    if method == "samples":
        # Without a seed: plain vLLM on a CPU ends when a seeded, sampled prompt is prefilled in chunks.
        found = await _adapting(ask, {"n": SAMPLES_PER_SCORE, "temperature": 1, limit: 6}, needed=("temperature",))
        if found is not None and len(found[0].choices) == SAMPLES_PER_SCORE:
            return Way(method, found[1])
    integer = {limit: _INTEGER_TOKENS, "temperature": 0, "seed": 0, "response_format": INTEGER_FORMAT}
    found = await _adapting(ask, integer, _PROBE + INTEGER_ADDITION, needed=None)
    assert found is not None
    return Way("integer", found[1])


def method_for(probe: Choice) -> Method:
    """Return the method that suits a model, from its reply (up to four tokens) to the request for the number 85."""
    if probe.logprobs is None or not probe.logprobs.content:
        return "integer"
    tokens = [entry.token for entry in probe.logprobs.content]
    if not probe.logprobs.content[0].top_logprobs or not "".join(tokens).lstrip().startswith("85"):
        return "integer"
    return "logprobs" if whole_number(tokens[0]) == 85 else "samples"


async def _adapting(
    ask: Ask, params: dict[str, Any], message: str = _PROBE, *, needed: Sequence[str] | None
) -> tuple[ChatCompletion, dict[str, Any]] | None:
    """Ask, and leave out the parameters that the server rejects.

    Args:
        ask: sends the message.
        params: the parameters to begin with.
        message: the user's message.
        needed: parameters without which the reply is of no use; None where any reply is of use.

    Returns:
        The reply and the parameters of its request; None where the server rejected a needed parameter.
    """
    retries: int | None = _PROBE_RETRIES
    while True:
        try:
            return await ask(params, message, retries), params
        except (openai.RateLimitError, openai.InternalServerError):
            if retries is None:
                raise
            retries = None  # the server exists and is busy
        except (*REJECTED, openai.PermissionDeniedError) as error:
            # OpenAI also answers 403 for models that may not return log-probabilities.
            if isinstance(error, openai.PermissionDeniedError) and "logprobs" not in server_message(error):
                raise
            fewer = altered(params, error)
            if needed is not None and (fewer is None or not {*needed} <= {*fewer}):
                return None
            if fewer is None:
                raise
            params = fewer


def whole_number(text: str) -> int | None:
    """Return a text as a number, as Python's `int` reads it; None where it is no number from 0 to 100."""
    try:
        number = int(text)
    except ValueError:
        return None
    return number if 0 <= number <= 100 else None


def weighted_mean(weights: Iterable[tuple[int | None, float]]) -> float | None:
    """Return the weighted mean of numbers; None where the numbers have less than a quarter of the weight.

    Args:
        weights: pairs of a number (None for a text that is no number) and its weight; the weights add up to at most 1.
    """
    usable = [(number, weight) for number, weight in weights if number is not None]
    share = sum(weight for _, weight in usable)
    return sum(number * weight for number, weight in usable) / share if share >= _LEAST_SHARE else None


def score_of_logprobs(choice: Choice) -> float | None:
    """Return the score in the first token's log-probabilities (natural, of at most 20 tokens)."""
    if choice.logprobs is None or not choice.logprobs.content:
        return None
    top = choice.logprobs.content[0].top_logprobs
    return weighted_mean((whole_number(entry.token), math.exp(entry.logprob)) for entry in top)


def score_of_samples(texts: Sequence[str]) -> float | None:
    """Return the score in sampled texts; only texts that begin with a whole number from 0 to 100 count."""
    starts = (re.match(r"\s*(\d+)(?![.,]?\d)", text) for text in texts)
    return weighted_mean((whole_number(start[1]) if start else None, 1 / len(texts)) for start in starts)


def score_of_integer(text: str) -> float | None:
    """Return the score in an integer judgement, None for a refusal.

    Args:
        text: the JSON of `INTEGER_FORMAT`. A bare number or REFUSAL counts too: some servers ignore the format.

    Raises:
        ValueError: the text is none of these.
    """
    text = without_thinking(text).strip()
    found = re.search(r"\{.*\}", text, re.DOTALL)
    if found is None:
        number = whole_number(text)
        if number is None and "REFUSAL" not in text:
            raise ValueError(f"no judgement: {text[:100]!r}")
        return None if number is None else float(number)
    judgement = json.loads(found[0])
    score = judgement.get("score")
    if judgement.get("refusal") is True or score == "REFUSAL" or ("score" in judgement and score is None):
        return None
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 100:
        raise ValueError(f"no score from 0 to 100: {found[0][:100]}")
    return float(score)
