"""The likelihood judge: scores answers with the model itself, offline, without an API key.

*Trait score.* An answer was written either under the positive condition or under the negative one. With equal priors,
the posterior probability of the positive one is `1 / (1 + exp(ll_neg - ll_pos))`, where `ll` is the log-likelihood of
the whole answer under a condition; the score is 100 times this probability. Each condition is
put to the model by examples (or an instruction pair) other than the ones that elicited the answer: with the same
examples the judge would mostly agree with itself.

*Coherence.* `100 * f * (1 - r)`. f, the fluency, maps the mean log-probability of the answer's tokens after the bare
question from -4 nats (0) to -1.5 nats (1), linearly, clipped. r, the repetition, is the share of the answer's 4-grams
that occurred earlier in the answer: likelihood alone would reward a loop, which is easy to predict.

Both scores are the model's own opinion of itself. The card (`NOTE`) and every page that shows the scores name them so.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from traitwatch.card import JudgeCard
from traitwatch_builder.clients.usage import Usage
from traitwatch_builder.definitions.elicitation import POLARITIES, Elicitation
from traitwatch_builder.judging.judge import Question, Score
from traitwatch_builder.models.chat import Messages, bare, text_ids
from traitwatch_builder.reading.transformers_reader import Reader, Text, shared_prefix

LIKELIHOOD = "likelihood"
NOTE = "the model's own opinion: a likelihood ratio between the two conditions, not an independent judge"
_NOT_FLUENT, _FLUENT = -4.0, -1.5
_NGRAM = 4
COHERENCE_MAP = {"nats_at_0": _NOT_FLUENT, "nats_at_1": _FLUENT, "ngram": _NGRAM}
# Enough answers to share the reading of each context's opening, few enough to lose little on Ctrl-C.
_JUDGED_AT_ONCE = 64


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
    """A `judging.judge.Judge` that scores answers by their likelihood under the conditions of an elicitation."""

    def __init__(self, load: Callable[[], Reader], elicitation: Elicitation, model: dict[str, Any]):
        """Prepare the judge.

        Args:
            load: loads the model; called before the first score.
            elicitation: the conditions.
            model: JSON data that identifies the model.
        """
        self._load = load
        self._elicitation = elicitation
        self._model = model

    @cached_property
    def _reader(self) -> Reader:
        return self._load()

    @property
    def card(self) -> JudgeCard:
        """The judge, for the vector's card."""
        return JudgeCard(name=LIKELIHOOD, method="posterior", note=NOTE)

    @property
    def usage(self) -> Usage:
        """Nothing: no paid API is asked."""
        return Usage()

    def identity(self, question: Question) -> dict[str, Any]:
        """Return the data that a score depends on."""
        own = {"judge": LIKELIHOOD, "model": self._model, "question": question.question, "answer": question.answer}
        if question.aspect == "coherence":
            return {**own, "coherence": COHERENCE_MAP}
        context = self._context(question)
        return {**own, "conditions": [self._elicitation.opening(context, polarity) for polarity in POLARITIES]}

    def estimate(self, questions: Sequence[Question]) -> Usage:
        """Return nothing: no paid API is asked."""
        return Usage()

    def score(self, questions: Sequence[Question], advance: Callable[[int], None]) -> Iterator[Score]:
        """Score answers. An empty answer has no trait score, and its coherence is 0."""
        tokens = [text_ids(self._reader.tokenizer, question.answer) for question in questions]
        yield from (
            Score(i, 0.0 if q.aspect == "coherence" else None) for i, q in enumerate(questions) if not tokens[i]
        )
        advance(sum(not ids for ids in tokens))
        groups: dict[int | None, list[int]] = {}
        for i, question in enumerate(questions):
            if tokens[i]:
                group = None if question.aspect == "coherence" else self._context(question)
                groups.setdefault(group, []).append(i)
        for context, members in groups.items():
            # Answers of similar length are read together, so that a batch has little padding.
            members.sort(key=lambda i: len(tokens[i]))
            for first in range(0, len(members), _JUDGED_AT_ONCE):
                part = members[first : first + _JUDGED_AT_ONCE]
                asked, answers = [questions[i].question for i in part], [tokens[i] for i in part]
                if context is None:
                    scores = [
                        coherence(p.tolist(), a) for p, a in zip(self._read([], asked, answers), answers, strict=True)
                    ]
                else:
                    pos, neg = (
                        [float(p.astype(np.float64).sum()) for p in self._read(opening, asked, answers)]
                        for opening in (self._elicitation.opening(context, polarity) for polarity in POLARITIES)
                    )
                    scores = [posterior(p, n) for p, n in zip(pos, neg, strict=True)]
                advance(len(part))
                yield from map(Score, part, scores)

    def _context(self, question: Question) -> int:
        """Return the context for the judgement: one that did not elicit the answer."""
        known = question.context is not None and question.context < self._elicitation.num_contexts
        return self._elicitation.judging_context(question.context) if known and question.context is not None else 0

    def _read(self, opening: Messages, asked: Sequence[str], answers: Sequence[list[int]]) -> list[Any]:
        """Return the log-probabilities of the tokens of answers to questions that follow an opening."""
        texts: list[Text] = [
            (self._reader.token_ids([*opening, *bare(question)]), answer)
            for question, answer in zip(asked, answers, strict=True)
        ]
        shared = shared_prefix([prompt for prompt, _ in texts])
        return list(self._reader.log_likelihoods(shared, texts, lambda count: None))
