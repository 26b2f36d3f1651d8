"""How a model is asked for a score.

`choose_way` asks the model for the number 85 and chooses from the reply: *logprobs* where the model returns
log-probabilities and writes 85 as one token; *samples* where the model spells the number digit by digit, so that the
first token is only a digit; *integer*, in structured output, for all other models.

A reply in which the number 85 cannot be found raises `UnreadableReplyError`. `replies.py` reads the scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import openai

from traitwatch_builder.clients.chat_completions import REJECTED, altered, server_message
from traitwatch_builder.clients.completion import Choice, Completion
from traitwatch_builder.judging.replies import (
    UnreadableReplyError,
    score_of_integer,
    score_of_samples,
    whole_number,
)

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
ASKED = 85
_PROBE = f"Write the number {ASKED} and nothing else."
_PROBE_RETRIES = 2  # until the server has answered once, so that a wrong URL shows soon
_INTEGER_TOKENS = 4096  # room for thinking, and a bound on the cost of an endless reply


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

    async def __call__(self, params: dict[str, Any], message: str, retries: int | None = None) -> Completion:
        """Send the message with the parameters of a `Way`; try again at most `retries` times (None: as usual)."""
        ...


async def choose_way(ask: Ask) -> Way:
    """Return the way to ask a model.

    Raises:
        openai.OpenAIError: from `ask`. A server that does not answer at all is given up soon.
        UnreadableReplyError: the model did not write the number that it was asked for.
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
        if found is not None and _sampled(found[0].choices):
            return Way(method, found[1])
    integer = {limit: _INTEGER_TOKENS, "temperature": 0, "seed": 0, "response_format": INTEGER_FORMAT}
    found = await _adapting(ask, integer, _PROBE + INTEGER_ADDITION, needed=None)
    assert found is not None
    choice = found[0].choices[0]
    if score_of_integer(choice) != ASKED:
        raise UnreadableReplyError(choice.said)
    return Way("integer", found[1])


def _sampled(choices: Sequence[Choice]) -> bool:
    """Tell whether a server gave as many samples as it was asked for, and most of them are the number."""
    if len(choices) != SAMPLES_PER_SCORE:
        return False
    try:
        score = score_of_samples(choices)
    except UnreadableReplyError:
        return False
    return score is not None and abs(score - ASKED) < 1


def method_for(probe: Choice) -> Method:
    """Return the method that suits a model, from its reply (up to four tokens) to the request for the number 85."""
    if probe.logprobs is None or not probe.logprobs.content:
        return "integer"
    tokens = [entry.token for entry in probe.logprobs.content]
    if not probe.logprobs.content[0].top_logprobs or not "".join(tokens).lstrip().startswith(str(ASKED)):
        return "integer"
    return "logprobs" if whole_number(tokens[0]) == ASKED else "samples"


async def _adapting(
    ask: Ask, params: dict[str, Any], message: str = _PROBE, *, needed: Sequence[str] | None
) -> tuple[Completion, dict[str, Any]] | None:
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
