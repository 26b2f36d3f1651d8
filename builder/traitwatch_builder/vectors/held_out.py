"""Reading held-out answers: the projections of answers that took no part in making the vector.

An answer is read after the bare question, as production traffic is: after the prompt that elicited the answer, the
states would tell the prompt. The prompt-last projection is taken under the prompt that elicited the answer, since a
bare question has no condition.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from traitwatch.vectors import Float32Array, unit_rows
from traitwatch_builder.definitions.definition import TraitDefinition
from traitwatch_builder.definitions.elicitation import POLARITIES, Polarity
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.models.chat import text_ids
from traitwatch_builder.progress import bar
from traitwatch_builder.reading.session import Session
from traitwatch_builder.reading.states import Reading, Span
from traitwatch_builder.storage.answers import JudgedAnswer
from traitwatch_builder.vectors.extract import answer_span, bare_prompt
from traitwatch_builder.vectors.projections import AnswerProjections
from traitwatch_builder.vectors.report_evidence import HeldOut, Sample, spread

SAMPLES_SHOWN = 3
"""Answers of each polarity that a report shows token by token."""


@dataclass(frozen=True, eq=False)
class HeldOutReading:
    """The held-out answers of one polarity after they were read.

    Attributes:
        projections: the projections of the answers, at every layer.
        summary: the mean projections at the served layer with the judge's scores, for the report.
        samples: a few answers token by token, for the report.
    """

    projections: AnswerProjections
    summary: HeldOut
    samples: list[Sample]


def check_held_out(questions: Iterable[str], made_of: Iterable[str], what_to_do: str) -> None:
    """Refuse eval questions on which a vector cannot be tested, since it is made of answers to them.

    Args:
        questions: the eval questions.
        made_of: the questions of the extraction.
        what_to_do: ends the message.
    """
    known = {question.strip() for question in made_of}
    distinct = dict.fromkeys(question.strip() for question in questions)
    shared = [question for question in distinct if question in known]
    if shared:
        raise PipelineError(
            f"{len(shared)} of {len(distinct)} eval questions are those of the extraction, e.g. {shared[0]!r}. On "
            f"answers to the questions that made the vector, the vector looks better than it is. {what_to_do}"
        )


def check_definition(trait: str, extract: TraitDefinition, evaluate: TraitDefinition) -> None:
    """Refuse a definition whose evaluation half has questions of its extraction half."""
    check_held_out(
        evaluate.questions,
        extract.questions,
        f"Change them in trait_data_eval/{trait}.json, or in trait_data_extract/; or make halves of one list by "
        f"`traitwatch define {trait} --from FILE --split`.",
    )


def read_held_out(
    session: Session,
    vector: Float32Array,
    null: Float32Array | None,
    pos: Sequence[JudgedAnswer],
    neg: Sequence[JudgedAnswer],
    served_layer: int,
) -> dict[Polarity, HeldOutReading]:
    """Read held-out answers of both polarities; empty answers are left out.

    Args:
        session: the model.
        vector: `[num_layers + 1, hidden_size]`, float32.
        null: `[num_null, num_layers + 1, hidden_size]`, vectors from shuffled labels; None where there are none.
        pos: positive answers to the eval questions.
        neg: negative answers to the eval questions.
        served_layer: the layer index that the report shows.

    Raises:
        PipelineError: a polarity has no answer.
    """
    directions = _Directions.of(vector, null, served_layer)
    sides = [_Side(polarity, rows, directions) for polarity, rows in zip(POLARITIES, (pos, neg), strict=True)]
    _read_answers(session, sides)
    _read_prompts(session, sides)
    return {side.polarity: side.reading(session.tokenizer) for side in sides}


@dataclass(frozen=True, eq=False)
class _Directions:
    """The directions on which states are projected.

    Attributes:
        unit: `[num_layers + 1, hidden_size]`, float32: the unit rows of the vector.
        null: `[num_null, num_layers + 1, hidden_size]`, float32: those of the vectors from shuffled labels; or None.
        served_layer: the layer index at which the projections of single tokens are kept.
    """

    unit: Float32Array
    null: Float32Array | None
    served_layer: int

    @classmethod
    def of(cls, vector: Float32Array, null: Float32Array | None, served_layer: int) -> "_Directions":
        unit_null = None if null is None else np.stack([unit_rows(shuffled) for shuffled in null])
        return cls(unit_rows(vector), unit_null, served_layer)


class _Side:
    """The answers of one polarity, whose arrays fill up while the model is read. Arrays are as in AnswerProjections.

    Attributes:
        polarity: the polarity.
        rows: the answers that are not empty.
        directions: the directions of the projections.
    """

    def __init__(self, polarity: Polarity, answers: Sequence[JudgedAnswer], directions: _Directions):
        self.polarity = polarity
        self.rows = [row for row in answers if row.answer.strip()]
        self.directions = directions
        if not self.rows:
            found = f"all {len(answers)} are empty: allow more --max-tokens" if answers else "its file has none"
            raise PipelineError(
                f"no held-out answer of the {polarity} condition ({found}); `traitwatch respond --questions eval` "
                "makes them."
            )
        num_rows, count = len(directions.unit), len(self.rows)
        self._response = np.zeros((num_rows, count), dtype=np.float32)
        self._prompt_last = np.zeros_like(self._response)
        self._null: Float32Array | None = None
        if directions.null is not None:
            self._null = np.zeros((num_rows, len(directions.null), count), dtype=np.float32)
        # Of each answer: [num_tokens], float32, the projections of its tokens at the served layer.
        self._tokens: dict[int, Float32Array] = {}

    def add_answer(self, index: int, reading: Reading) -> None:
        """Project the states of answer `index`."""
        assert reading.projections is not None, "directions were given"
        self._response[:, index] = (reading.mean * self.directions.unit).sum(axis=1)
        self._tokens[index] = reading.projections[self.directions.served_layer]
        if self._null is not None and self.directions.null is not None:
            self._null[:, :, index] = np.einsum("rlh,lh->rl", self.directions.null, reading.mean).T

    def add_prompt(self, prompt: str, projections: Float32Array) -> None:
        """Take the projections `[num_layers + 1]` at the end of a prompt, for all answers that it elicited."""
        for index, row in enumerate(self.rows):
            if row.prompt == prompt:
                self._prompt_last[:, index] = projections

    def reading(self, tokenizer: Any) -> HeldOutReading:
        """Return what was read."""
        scores = [row.trait for row in self.rows]
        served = self._response[self.directions.served_layer].tolist()
        return HeldOutReading(
            AnswerProjections(self._response, self._prompt_last, self._null, scores),
            HeldOut(projections=served, scores=scores),
            [_sample(tokenizer, self.polarity, self.rows[i], self._tokens[i]) for i in spread(served, SAMPLES_SHOWN)],
        )


def _read_answers(session: Session, sides: Sequence[_Side]) -> None:
    """Read the answers of both polarities, each after its bare question."""
    tokenizer = session.tokenizer
    order = [(side, index) for side in sides for index in range(len(side.rows))]
    rows = [side.rows[index] for side, index in order]
    spans = [answer_span(tokenizer, bare_prompt(tokenizer, row.question), row.answer) for row in rows]
    with bar(session.console, "hidden states: held-out answers", len(spans)) as advance:
        for number, reading in session.reader().read(spans, advance, sides[0].directions.unit):
            side, index = order[number]
            side.add_answer(index, reading)


def _read_prompts(session: Session, sides: Sequence[_Side]) -> None:
    """Read the last token of every prompt that elicited an answer; a prompt is read once."""
    prompts = list(dict.fromkeys(row.prompt for side in sides for row in side.rows))
    ids = [text_ids(session.tokenizer, prompt) for prompt in prompts]
    with bar(session.console, "hidden states: held-out prompts", len(prompts)) as advance:
        for number, reading in session.reader().read([Span(i, len(i) - 1) for i in ids], advance):
            for side in sides:
                side.add_prompt(prompts[number], (reading.last * side.directions.unit).sum(axis=1))


def _sample(tokenizer: Any, polarity: Polarity, row: JudgedAnswer, projections: Float32Array) -> Sample:
    span = answer_span(tokenizer, bare_prompt(tokenizer, row.question), row.answer)
    return Sample(
        polarity=polarity,
        question=row.question,
        answer_tokens=token_texts(tokenizer, span.ids[span.start :]),
        projections=[round(float(value), 4) for value in projections],
        trait=row.trait,
        coherence=row.coherence,
    )


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Return the text of each token; joined they are the text. A character of several tokens is given to the last."""
    texts, before = [], ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end])
        if text.endswith("\ufffd") and end < len(ids):
            texts.append("")
            continue
        texts.append(text[len(before) :])
        before = text
    return texts
