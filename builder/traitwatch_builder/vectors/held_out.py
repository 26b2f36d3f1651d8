"""Reading held-out answers: what a vector says of answers that took no part in making it.

An answer is read after the bare question, as production traffic is: after the prompt that elicited it, the states would
tell the prompt. The prompt-last projection is of the prompt that elicited, since a bare question has no condition.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from traitwatch.vectors import Float32Array, unit_rows
from traitwatch_builder.definitions.elicitation import POLARITIES, Polarity
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.models.chat import text_ids
from traitwatch_builder.progress import bar
from traitwatch_builder.reading.session import Session
from traitwatch_builder.reading.states import Span
from traitwatch_builder.storage.answers import JudgedAnswer
from traitwatch_builder.vectors.extract import answer_span, bare_prompt
from traitwatch_builder.vectors.report_evidence import HeldOut, Sample, spread

SAMPLES = 3
"""Answers of each polarity that a report shows."""


@dataclass(frozen=True, eq=False)
class HeldOutProjections:
    """Projections of held-out answers, per polarity.

    Attributes:
        rows: the answers that were read: those that are not empty.
        response: `[num_answers, num_layers + 1]`, mean over the answer, units of the hidden state.
        prompt_last: as `response`, at the last token of the prompt that elicited.
        null: `[num_null, num_answers, num_layers + 1]`, on vectors from shuffled labels; None where there are none.
        shown: the mean projections at the served layer with the judge's scores, for the report.
        samples: a few answers token by token, for the report.
    """

    rows: Mapping[Polarity, list[JudgedAnswer]]
    response: Mapping[Polarity, Float32Array]
    prompt_last: Mapping[Polarity, Float32Array]
    null: Mapping[Polarity, Float32Array | None]
    shown: Mapping[Polarity, HeldOut]
    samples: list[Sample]


def check_held_out(questions: Iterable[str], made_of: Iterable[str], what_to_do: str) -> None:
    """Refuse eval questions on which a vector cannot be tested, since it is made of answers to them.

    Args:
        questions: the eval questions.
        made_of: the questions of the extraction.
        what_to_do: ends the message.
    """
    known = {question.strip() for question in made_of}
    asked = dict.fromkeys(question.strip() for question in questions)
    shared = [question for question in asked if question in known]
    if shared:
        raise PipelineError(
            f"{len(shared)} of {len(asked)} eval questions are those of the extraction, e.g. {shared[0]!r}: on answers "
            f"to what the vector is made of it would look better than it is. {what_to_do}"
        )


def read_held_out(
    session: Session,
    vector: Float32Array,
    null: Float32Array | None,
    pos: Sequence[JudgedAnswer],
    neg: Sequence[JudgedAnswer],
    served_layer: int,
) -> HeldOutProjections:
    """Read held-out answers of both conditions.

    Args:
        session: the model.
        vector: `[num_layers + 1, hidden_size]`, float32.
        null: `[num_null, num_layers + 1, hidden_size]`, vectors from shuffled labels.
        pos: positive answers to the eval questions.
        neg: negative ones.
        served_layer: the layer index that the report shows.

    Raises:
        PipelineError: a condition has no answer.
    """
    rows: dict[Polarity, list[JudgedAnswer]] = {}
    for polarity, side in zip(POLARITIES, (pos, neg), strict=True):
        rows[polarity] = [row for row in side if row.answer.strip()]
        if not rows[polarity]:
            raise PipelineError(f"no held-out answer of the {polarity} condition; `traitwatch respond` makes them.")
    order = [(polarity, i) for polarity in POLARITIES for i in range(len(rows[polarity]))]
    response, tokens, nulls = _read_answers(session, unit_rows(vector), null, rows, order, served_layer)
    at_prompt = _read_prompts(session, unit_rows(vector), rows)
    shown = {
        polarity: HeldOut(
            projections=response[polarity][:, served_layer].tolist(), scores=[row.trait for row in rows[polarity]]
        )
        for polarity in POLARITIES
    }
    samples = [
        _sample(session.tokenizer, polarity, rows[polarity][i], tokens[polarity, i])
        for polarity in POLARITIES
        for i in spread(shown[polarity].projections, SAMPLES)
    ]
    prompt_last = {p: np.stack([at_prompt[row.prompt] for row in rows[p]]) for p in POLARITIES}
    return HeldOutProjections(rows, response, prompt_last, nulls, shown, samples)


def _read_answers(
    session: Session,
    unit: Float32Array,
    null: Float32Array | None,
    rows: Mapping[Polarity, Sequence[JudgedAnswer]],
    order: Sequence[tuple[Polarity, int]],
    served_layer: int,
) -> tuple[dict[Polarity, Float32Array], dict[tuple[Polarity, int], Float32Array], dict[Polarity, Float32Array | None]]:
    """Return the mean projections, those of tokens at the served layer, and the mean projections on null vectors."""
    layers = unit.shape[0]
    null_unit = None if null is None else np.stack([unit_rows(vector) for vector in null])
    response = {p: np.zeros((len(rows[p]), layers), dtype=np.float32) for p in POLARITIES}
    nulls: dict[Polarity, Float32Array | None] = {
        p: None if null is None else np.zeros((len(null), len(rows[p]), layers), dtype=np.float32) for p in POLARITIES
    }
    tokens: dict[tuple[Polarity, int], Float32Array] = {}
    tokenizer = session.tokenizer
    texts = [rows[polarity][i] for polarity, i in order]
    spans = [answer_span(tokenizer, bare_prompt(tokenizer, row.question), row.answer) for row in texts]
    with bar(session.console, "hidden states: held-out answers", len(spans)) as advance:
        for index, reading in session.reader().read(spans, advance, unit):
            polarity, i = order[index]
            assert reading.projections is not None, "directions were given"
            response[polarity][i] = (reading.mean * unit).sum(axis=1)
            tokens[polarity, i] = reading.projections[served_layer]
            on_null = nulls[polarity]
            if on_null is not None and null_unit is not None:
                on_null[:, i] = np.einsum("rlh,lh->rl", null_unit, reading.mean)
    return response, tokens, nulls


def _read_prompts(
    session: Session, unit: Float32Array, rows: Mapping[Polarity, Sequence[JudgedAnswer]]
) -> dict[str, Float32Array]:
    """Return the projections at the last token of each prompt: `[num_layers + 1]`."""
    prompts = list(dict.fromkeys(row.prompt for side in rows.values() for row in side))
    ids = [text_ids(session.tokenizer, prompt) for prompt in prompts]
    found = {}
    with bar(session.console, "hidden states: held-out prompts", len(prompts)) as advance:
        for index, reading in session.reader().read([Span(i, len(i) - 1) for i in ids], advance):
            found[prompts[index]] = (reading.last * unit).sum(axis=1)
    return found


def _sample(tokenizer: Any, polarity: Polarity, row: JudgedAnswer, projections: Float32Array) -> Sample:
    ids = answer_span(tokenizer, bare_prompt(tokenizer, row.question), row.answer)
    return Sample(
        polarity=polarity,
        question=row.question,
        answer_tokens=token_texts(tokenizer, ids.ids[ids.start :]),
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
