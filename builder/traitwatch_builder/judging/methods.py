"""By what way a model can be asked for a score: found out by asking it for the number 85.

*logprobs* where it tells them and writes 85 as one token; *samples* where it spells the number digit by digit, so that
a first token would be a digit only; *integer*, in structured output, for all others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import openai
from openai.types.chat import ChatCompletion
from openai.types.chat.chat_completion import Choice

from traitwatch_builder.clients.chat_completions import REJECTED, altered, what_it_said
from traitwatch_builder.judging.openai_scores import INTEGER_ADDITION, INTEGER_FORMAT, whole_number

Method = Literal["logprobs", "samples", "integer"]

SAMPLES = 10
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
        found = await _adapting(ask, {"n": SAMPLES, "temperature": 1, limit: 6}, needed=("temperature",))
        if found is not None and len(found[0].choices) == SAMPLES:
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
