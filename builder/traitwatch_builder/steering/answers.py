"""The eval questions answered under every setting of steering, and the judge's scores of the answers.

A setting is no steering, or one coefficient at one layer. Every answer and every score is kept in a worklog as soon as
it exists. So an interrupted run goes on where it stopped, and one more layer costs only the answers at that layer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console

from traitwatch.card import SteeringResult
from traitwatch.vectors import Float32Array, vector_sha256
from traitwatch_builder.answering.source import Sampling
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.judging.judge import Judge, Question
from traitwatch_builder.judging.judging import ASPECTS, ask_judge
from traitwatch_builder.models.chat import bare, opens_thinking, render, text_ids, without_thinking
from traitwatch_builder.progress import bar
from traitwatch_builder.steering.model import SteeredModel, Steering
from traitwatch_builder.storage.answers import clean_text
from traitwatch_builder.storage.worklog import Worklog, fingerprint

# Answers generated at once. Twice as many are a tenth faster on a CPU, but the progress bar would stand still for long.
_BATCH = 32


@dataclass(frozen=True)
class SteeredAnswer:
    """An answer, and the setting under which it was generated; `steering` is None for no steering."""

    steering: Steering | None
    question: str
    text: str

    @property
    def questions(self) -> list[Question]:
        """The questions to the judge about this answer: trait and coherence, in the order of `ASPECTS`."""
        return [Question(aspect, self.question, self.text) for aspect in ASPECTS]


def settings(layers: Sequence[int], coefficients: Sequence[float]) -> list[Steering | None]:
    """Return the settings: no steering once, then every coefficient at every layer."""
    return [None, *(Steering(layer, c) for layer in sorted(set(layers)) for c in sorted(set(coefficients)))]


class SteeredAnswers:
    """The answers to questions under settings of steering; each is generated once and kept in a worklog."""

    def __init__(
        self,
        tokenizer: Any,
        vector: Float32Array,
        identity: Mapping[str, Any],
        sampling: Sampling,
        questions: Sequence[str],
        steerings: Sequence[Steering | None],
        worklog: Worklog,
    ):
        """Render the prompts and compute the key of every answer.

        Args:
            tokenizer: the model's tokenizer.
            vector: `[num_layers + 1, hidden_size]`, float32.
            identity: JSON data that differ for another model, or for the same model in another precision.
            sampling: how answers are drawn.
            questions: the questions; each is asked alone, as production traffic asks it.
            steerings: the settings.
            worklog: where each answer is kept as soon as it exists.
        """
        rendered = {question: render(tokenizer, bare(question)) for question in questions}
        self._prompts = {question: text_ids(tokenizer, prompt) for question, prompt in rendered.items()}
        self._thinking_opened = any(map(opens_thinking, rendered.values()))
        self._pairs = [(steering, question) for steering in steerings for question in questions]
        self._sampling = sampling
        self._worklog = worklog
        shared = [dict(identity), asdict(sampling)]
        added = {s: {**asdict(s), "vector": vector_sha256(vector[s.layer])} for s in steerings if s is not None}
        self._keys = [
            fingerprint(["steered answer", *shared, added[steering] if steering else None, question])
            for steering, question in self._pairs
        ]

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest conversation, without its answer."""
        return max(map(len, self._prompts.values()))

    def saved(self) -> list[SteeredAnswer | None]:
        """Return the answers setting by setting, None for an answer that the worklog does not have."""
        texts = [self._worklog.get(key, str) for key in self._keys]
        return [
            None if text is None else SteeredAnswer(steering, question, text)
            for (steering, question), text in zip(self._pairs, texts, strict=True)
        ]

    def make(self, load: Callable[[], SteeredModel], console: Console) -> list[SteeredAnswer]:
        """Return the answers setting by setting; answers that the worklog does not have are generated.

        Args:
            load: returns the model; called only where an answer is missing. The model is released at the end.
            console: where progress is printed.
        """
        todo = [i for i, answer in enumerate(self.saved()) if answer is None]
        if todo:
            model = load()
            with bar(console, "steered answers", len(todo)) as advance:
                for first in range(0, len(todo), _BATCH):
                    part = todo[first : first + _BATCH]
                    steerings, questions = zip(*(self._pairs[i] for i in part), strict=True)
                    texts = model.answer([self._prompts[q] for q in questions], steerings, self._sampling)
                    for i, text in zip(part, texts, strict=True):
                        self._worklog.put(self._keys[i], clean_text(without_thinking(text, self._thinking_opened)))
                    advance(len(part))
        return [answer for answer in self.saved() if answer is not None]


def judge_steering(
    judge: Judge, answers: Sequence[SteeredAnswer], worklog: Worklog, console: Console
) -> list[SteeringResult]:
    """Return the mean scores of each setting; layer and coefficient of no steering are 0.

    The mean trait score is taken over the answers that have a trait score, whose number is `num_answers`; likewise the
    mean coherence. A setting without any score of one aspect is left out.

    Raises:
        PipelineError: no unsteered answer has a score, or the judge cannot be used.
    """
    scores = ask_judge(judge, [q for answer in answers for q in answer.questions], worklog, console, "judging them")
    groups: dict[Steering | None, dict[str, list[float]]] = {}
    for i, answer in enumerate(answers):
        group = groups.setdefault(answer.steering, {aspect: [] for aspect in ASPECTS})
        for aspect, score in zip(ASPECTS, scores[len(ASPECTS) * i :], strict=False):
            if score is not None:
                group[aspect].append(score)
    usable = {steering: group for steering, group in groups.items() if all(group.values())}
    if None not in usable:
        raise PipelineError(
            "the judge gave no usable score of an unsteered answer, so there is nothing to compare with: "
            "raise --max-tokens or --questions, or choose another --judge."
        )
    return [
        SteeringResult(
            layer=steering.layer if steering else 0,
            coefficient=steering.coefficient if steering else 0.0,
            trait_score=float(np.mean(group["trait"])),
            coherence=float(np.mean(group["coherence"])),
            num_answers=len(group["trait"]),
        )
        for steering, group in usable.items()
    ]
