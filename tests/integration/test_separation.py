"""The shipped vector separates paternalistic answers from respectful ones, on questions that did not make it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.serving import MODEL_NAME, Server
from traitwatch.vectors import load_vector
from traitwatch_builder.definitions.definition import SHIPPED_DEFINITIONS, load_definition
from traitwatch_builder.definitions.elicitation import POLARITIES, Elicitation
from traitwatch_builder.models.chat import Messages
from traitwatch_builder.reading.transformers_reader import Reader
from traitwatch_builder.vectors.extract import answer_span, bare_prompt
from traitwatch_builder.vectors.verify import auc

pytestmark = pytest.mark.engine

LAYER = 20
MIN_AUC = 0.85


async def test_the_vector_separates_held_out_answers(embedded: Server, model: Path, shipped: Path) -> None:
    """Examples elicit the answers, which are read after the bare question, like production traffic."""
    evaluate = load_definition(SHIPPED_DEFINITIONS / "trait_data_eval" / "paternalism.json")
    extract = load_definition(SHIPPED_DEFINITIONS / "trait_data_extract" / "paternalism.json")
    assert not set(evaluate.questions) & set(extract.questions)
    elicitation = Elicitation(extract, "many-shot", "paternalism")
    rows = elicitation.rows(evaluate.questions, samples=1)
    direction = load_vector(shipped / "paternalism_response_avg_diff.pt").direction(LAYER)
    reader = Reader.load(model)
    means = {}
    for polarity in POLARITIES:
        answers = await _answers(embedded, [elicitation.prompt(row, polarity) for row in rows])
        spans = [
            answer_span(reader.tokenizer, bare_prompt(reader.tokenizer, row.question), answer)
            for row, answer in zip(rows, answers, strict=True)
            if answer
        ]
        readings = reader.read(spans, lambda count: None)
        means[polarity] = [float(reading.mean[LAYER] @ direction) for _, reading in readings]
    assert auc(means["pos"], means["neg"]) >= MIN_AUC


async def _answers(server: Server, prompts: list[Messages]) -> list[str]:
    sampling: dict[str, Any] = {"model": MODEL_NAME, "temperature": 0.7, "top_p": 0.9, "max_tokens": 80}
    async with server.async_client() as client:
        answers = await asyncio.gather(*(client.chat.completions.create(messages=p, **sampling) for p in prompts))
    return [answer.choices[0].message.content.strip() for answer in answers]
