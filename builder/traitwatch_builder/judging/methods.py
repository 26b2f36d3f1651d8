"""By what way a model can be asked for a score: found out by asking it for the number 85.

*logprobs* where it tells them and writes 85 as one token; *samples* where it spells the number digit by digit, so that
a first token would be a digit only; *integer*, in structured output, for all others.
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

from traitwatch_builder.clients.chat_completions import REJECTED, altered, what_it_said
from traitwatch_builder.models.chat import without_thinking

Method = Literal["logprobs", "samples", "integer"]

SAMPLES_PER_SCORE = 10
_PROMPT = "Write the number 85 and nothing else."
_PATIENCE = 2
_INTEGER_TOKENS = 4096  # room for thinking, a bound on what a runaway costs


@dataclass(frozen=True)
class Way:
    """How a model is asked.

    Attributes:
        method: what its replies are read for.
        params: of every request, beside its model and message.
    """

    method: Method
    params: dict[str, Any]


class Ask(Protocol):
    """Sends one user message to the model."""

    async def __call__(self, params: dict[str, Any], message: str, retries: int | None = None) -> ChatCompletion:
        """Ask with the parameters of a `Way`, trying again at most `retries` times (None: as often as usual)."""
        ...


async def choose_way(ask: Ask) -> Way:
    """Find out by what way a model can be asked. Errors are those of `ask`; that nobody is there shows soon."""
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
    found = await _adapting(ask, integer, _PROMPT + INTEGER_ADDITION, needed=None)
    assert found is not None
    return Way("integer", found[1])


def method_for(probe: Choice) -> Method:
    """Return the way that suits a model, from its answer of up to four tokens to the request for the number 85."""
    if probe.logprobs is None or not probe.logprobs.content:
        return "integer"
    tokens = [entry.token for entry in probe.logprobs.content]
    if not probe.logprobs.content[0].top_logprobs or not "".join(tokens).lstrip().startswith("85"):
        return "integer"
    return "logprobs" if whole_number(tokens[0]) == 85 else "samples"


async def _adapting(
    ask: Ask, params: dict[str, Any], message: str = _PROMPT, *, needed: Sequence[str] | None
) -> tuple[ChatCompletion, dict[str, Any]] | None:
    """Ask with those of the parameters that the model accepts.

    Args:
        ask: sends the message.
        params: what to ask with, at best.
        message: the user's message.
        needed: parameters without which the answer is of no use; None where some answer must come.

    Returns:
        The reply and the parameters it was given to; None where the server rejected what is needed.
    """
    retries: int | None = _PATIENCE
    while True:
        try:
            return await ask(params, message, retries), params
        except (openai.RateLimitError, openai.InternalServerError):
            if retries is None:
                raise
            retries = None  # it is there, and busy
        except (*REJECTED, openai.PermissionDeniedError) as error:
            # OpenAI has also said 403 to models that may not tell log-probabilities.
            if isinstance(error, openai.PermissionDeniedError) and "logprobs" not in what_it_said(error):
                raise
            fewer = altered(params, error)
            if needed is not None and (fewer is None or not {*needed} <= {*fewer}):
                return None
            if fewer is None:
                raise
            params = fewer


_LEAST_MASS = 0.25


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


def whole_number(text: str) -> int | None:
    """Return the number that a text is, as Python's `int` reads it, where it is one from 0 to 100."""
    try:
        number = int(text)
    except ValueError:
        return None
    return number if 0 <= number <= 100 else None


def weighted_mean(weights: Iterable[tuple[int | None, float]]) -> float | None:
    """Return the mean of numbers by their weights; None where the numbers have less than a quarter of the weight.

    Args:
        weights: numbers (None for what is no number) with their shares of a whole of 1.
    """
    usable = [(number, weight) for number, weight in weights if number is not None]
    mass = sum(weight for _, weight in usable)
    return sum(number * weight for number, weight in usable) / mass if mass >= _LEAST_MASS else None


def score_of_logprobs(choice: Choice) -> float | None:
    """Return the score in the first token's log-probabilities (natural, of at most 20 tokens)."""
    if choice.logprobs is None or not choice.logprobs.content:
        return None
    top = choice.logprobs.content[0].top_logprobs
    return weighted_mean((whole_number(entry.token), math.exp(entry.logprob)) for entry in top)


def score_of_samples(texts: Sequence[str]) -> float | None:
    """Return the score in sampled texts, of which those that begin with a whole number from 0 to 100 count."""
    starts = (re.match(r"\s*(\d+)(?![.,]?\d)", text) for text in texts)
    return weighted_mean((whole_number(start[1]) if start else None, 1 / len(texts)) for start in starts)


def score_of_integer(text: str) -> float | None:
    """Return the score in an integer judgement, None for a refusal.

    Args:
        text: the JSON of `INTEGER_FORMAT`; of servers that ignore the format also a bare number, or REFUSAL.

    Raises:
        ValueError: it is none of that.
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
