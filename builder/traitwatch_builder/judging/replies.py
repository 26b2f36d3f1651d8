"""How a score is read from a judge's reply: a number from 0 to 100, or a refusal.

`score_of_logprobs`, `score_of_samples` and `score_of_integer` read the score, one function a method. Each returns None
for a refusal, and raises `UnreadableReplyError` for a reply that is neither a score nor a refusal.

`number_in` reads the forms in which models write a number when they were asked for the number alone: `85`, `85.0`,
`85/100`, `**Score:** 85`, `85 out of 100`.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from traitwatch_builder.clients.completion import Choice
from traitwatch_builder.models.chat import without_thinking

_LEAST_SHARE = 0.25  # of the probability, or of the samples, that numbers must have
_REFUSAL = "REFUSAL"
# A number alone, or after a label such as `Score:` or `The coherence is`; then perhaps its scale, and nothing else.
_NUMBER = re.compile(
    r"(?:[^\W\d][\w \-]{0,60}?(?:\s*[:=]\s*|\s+is\s+))?"
    r"(?P<number>\d{1,3}(?:\.\d+)?)"
    r"(?:\s*(?:%|percent|points?|(?:/|out of|of)\s*(?P<scale>\d+)))?"
    r"[.!]?",
    re.IGNORECASE,
)
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_MARKS = re.compile(r"[*_`#\"'$\[\]()]")


class UnreadableReplyError(ValueError):
    """A reply is neither a score nor a refusal. The message quotes the reply."""


def whole_number(text: str) -> int | None:
    """Return a text as a number, as Python's `int` reads it; None where it is no number from 0 to 100."""
    try:
        number = int(text)
    except ValueError:
        return None
    return number if 0 <= number <= 100 else None


def number_in(text: str) -> float | None:
    """Return the number from 0 to 100 that a text states and nothing else; None where the text says more, or less.

    Of a text of several lines, the last line counts where it names what the number is, as in `Score: 85`.
    """
    lines = [line for line in _BOXED.sub(r"\1", text).splitlines() if line.strip()]
    # A brace is a part of JSON that could not be read, perhaps since it was cut off in the middle of the number.
    if not lines or "{" in text.replace(r"\boxed{", ""):
        return None
    found = _NUMBER.fullmatch(_MARKS.sub("", lines[-1]).strip())
    if found is None or (len(lines) > 1 and found.start("number") == 0):
        return None
    number = float(found["number"])
    return number if number <= 100 and found["scale"] in (None, "100") else None


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
    tokens = choice.logprobs.content if choice.logprobs is not None else []
    if not tokens:
        if choice.filtered:
            return None
        raise UnreadableReplyError(f"{choice.said}, without log-probabilities")
    # The probability of a token is at most 1. Rounding makes some servers report a little more.
    top = [(entry.token, math.exp(min(entry.logprob, 0.0))) for entry in tokens[0].top_logprobs]
    score = weighted_mean((whole_number(token), probability) for token, probability in top)
    written = tokens[0].token.strip()
    # The first token of REFUSAL may be a part of the word.
    if score is None and not (written and _REFUSAL.startswith(written.upper())) and not choice.filtered:
        raise UnreadableReplyError(f"{tokens[0].token!r} as the first token")
    return score


def score_of_samples(choices: Sequence[Choice]) -> float | None:
    """Return the score in sampled texts; only texts that begin with a whole number from 0 to 100 count."""
    starts = [re.match(r"\s*(\d+)(?![.,]?\d)", choice.text) for choice in choices]
    score = weighted_mean((whole_number(start[1]) if start else None, 1 / len(choices)) for start in starts)
    if score is None and not any(choice.filtered or _refuses(choice.text) for choice in choices):
        raise UnreadableReplyError(choices[0].said)
    return score


def score_of_integer(choice: Choice) -> float | None:
    """Return the score in an integer judgement.

    The text is to be the JSON of `methods.INTEGER_FORMAT`, perhaps in a code fence or after thinking. A bare number or
    REFUSAL counts too: some servers ignore the format.
    """
    if choice.filtered:
        return None
    text = without_thinking(choice.text).strip()
    judgement = _object_in(text)
    if judgement is not None:
        return _score_of_object(judgement, choice)
    # A text that was cut off may end in the middle of a number.
    number = number_in(text) if choice.finish_reason != "length" else None
    if number is None and not _refuses(text):
        raise UnreadableReplyError(choice.said)
    return number


def _refuses(text: str) -> bool:
    return re.search(r"\brefusal\b", text, re.IGNORECASE) is not None


def _object_in(text: str) -> Mapping[str, Any] | None:
    """Return the JSON object in a text, with its keys in lower case; None where the text has none."""
    found = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        parsed = json.loads(found[0]) if found else None
    except (ValueError, RecursionError):
        return None
    return {key.lower(): value for key, value in parsed.items()} if isinstance(parsed, dict) else None


def _score_of_object(judgement: Mapping[str, Any], choice: Choice) -> float | None:
    score = judgement.get("score")
    if isinstance(score, str) and not _refuses(score):
        score = number_in(score)
        if score is None:
            raise UnreadableReplyError(choice.said)
    refused = judgement.get("refusal")
    refused = refused.strip().lower() == "true" if isinstance(refused, str) else refused is True
    if refused or isinstance(score, str) or ("score" in judgement and score is None):
        return None
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 100:
        raise UnreadableReplyError(choice.said)
    return float(score)
