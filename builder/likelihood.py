"""The likelihood judge: scores answers with the model itself, offline, for whoever has no API key.

*Trait score.* An answer was written either under the positive condition or under the negative one. With equal priors,
the posterior probability of the positive one is `1 / (1 + exp(ll_neg - ll_pos))`, where `ll` is the log-likelihood of
the whole answer under a condition; the score is 100 times that. The conditions are instantiated with examples (or an
instruction pair) other than those that elicited the answer: with the same ones the judge would mostly agree with
itself.

*Coherence.* `100 * f * (1 - r)`. f, the fluency, maps the mean log-probability of the answer's tokens after the bare
question from -4 nats (0) to -1.5 nats (1), linearly, clipped. r, the repetition, is the share of the answer's 4-grams
that occurred before in it: likelihood alone would reward a loop, which is easy to predict.

Both are the model's own opinion of itself, and wherever they are shown they are said to be.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from builder.conversation import Elicitation, Polarity, Row, answer_ids, bare
from builder.reader import Reader, Text, shared_prefix

NAME = "likelihood"
NOTE = "the model's own opinion: a likelihood ratio between the two conditions, not an independent judge"
_NOT_FLUENT, _FLUENT = -4.0, -1.5
_NGRAM = 4
COHERENCE_MAP = {"nats_at_0": _NOT_FLUENT, "nats_at_1": _FLUENT, "ngram": _NGRAM}


@dataclass(frozen=True)
class Verdict:
    """What the judge says of an answer.

    Attributes:
        trait: 0 to 100, how surely it was written under the positive condition.
        coherence: 0 to 100.
    """

    trait: float
    coherence: float


def posterior(ll_pos: float, ll_neg: float) -> float:
    """Return 100 times the posterior probability of the positive condition, with equal priors.

    Args:
        ll_pos: log-likelihood of the answer under the positive condition, nats.
        ll_neg: the same under the negative one.
    """
    # Beyond 700 nats exp overflows, and the posterior is 0 or 1 long before.
    return float(100.0 / (1.0 + np.exp(np.clip(ll_neg - ll_pos, -700.0, 700.0))))


def coherence(log_probs: Sequence[float], tokens: Sequence[int]) -> float:
    """Return the coherence of an answer, 0 to 100 (see the module's docstring for the map).

    Args:
        log_probs: natural log-probability of each token after the bare question.
        tokens: the answer's token ids.
    """
    if not tokens:
        return 0.0
    fluency = float(np.clip((np.mean(log_probs) - _NOT_FLUENT) / (_FLUENT - _NOT_FLUENT), 0.0, 1.0))
    return 100.0 * fluency * (1.0 - repetition(tokens))


def repetition(tokens: Sequence[int]) -> float:
    """Return the share of 4-grams that occurred before: 0 for none, near 1 for a loop."""
    grams = [tuple(tokens[i : i + _NGRAM]) for i in range(len(tokens) - _NGRAM + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


class LikelihoodJudge:
    """Scores answers by their likelihood under the conditions of an elicitation."""

    def __init__(self, reader: Reader, elicitation: Elicitation):
        self._reader = reader
        self._elicitation = elicitation

    def score(self, rows: Sequence[Row], answers: Sequence[str], advance: Callable[[int], None]) -> list[Verdict]:
        """Score the answers of rows, in order; an empty answer has no trait (50) and no coherence (0).

        Args:
            rows: what each answer answers, and what elicited it.
            answers: the answers' texts.
            advance: called with the number of readings done; there are three to an answer.
        """
        tokens = [answer_ids(self._reader.tokenizer, answer) for answer in answers]
        judged = [i for i, ids in enumerate(tokens) if ids]
        advance(3 * (len(rows) - len(judged)))
        ll = {polarity: self._totals(rows, tokens, judged, polarity, advance) for polarity in ("pos", "neg")}
        plain = [(self._reader.token_ids(bare(rows[i].question)), tokens[i]) for i in judged]
        opening = shared_prefix([prompt for prompt, _ in plain]) if plain else []
        readings = self._reader.log_likelihoods(opening, plain, advance)
        verdicts = [Verdict(50.0, 0.0)] * len(rows)
        for i, log_probs in zip(judged, readings, strict=True):
            trait = posterior(ll["pos"][i], ll["neg"][i])
            verdicts[i] = Verdict(trait, coherence(log_probs.tolist(), tokens[i]))
        return verdicts

    def _totals(
        self,
        rows: Sequence[Row],
        tokens: Sequence[list[int]],
        judged: Sequence[int],
        polarity: Polarity,
        advance: Callable[[int], None],
    ) -> dict[int, float]:
        """Return the log-likelihood of each judged answer under a condition; one context's opening is read once."""
        totals: dict[int, float] = {}
        for context in range(self._elicitation.num_contexts):
            members = [i for i in judged if self._elicitation.judging_context(rows[i].context) == context]
            if not members:
                continue
            opening_messages = self._elicitation.opening(context, polarity)
            texts: list[Text] = [
                (self._reader.token_ids([*opening_messages, *bare(rows[i].question)]), tokens[i]) for i in members
            ]
            opening = shared_prefix([prompt for prompt, _ in texts])
            for i, log_probs in zip(members, self._reader.log_likelihoods(opening, texts, advance), strict=True):
                totals[i] = float(log_probs.astype(np.float64).sum())
        return totals
