"""From effective pairs to persona vectors: average hidden states, subtract (Persona Vectors, arXiv 2507.21509)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from rich.console import Console

from traitwatch.vectors import Float32Array
from traitwatch_builder.definitions.elicitation import POLARITIES
from traitwatch_builder.models.chat import bare, render, text_ids
from traitwatch_builder.progress import bar
from traitwatch_builder.reading.states import Span, StateReader
from traitwatch_builder.storage.answers import JudgedAnswer
from traitwatch_builder.vectors.evidence import Evidence, PairAccumulator

ReadUnder = Literal["prompt", "question"]


@dataclass(frozen=True, eq=False)
class Vectors:
    """The three persona vectors of a trait, each `[num_layers + 1, hidden_size]`, float32."""

    response_avg: Float32Array
    prompt_avg: Float32Array
    prompt_last: Float32Array


@dataclass(frozen=True, eq=False)
class Extraction:
    """The result of an extraction.

    Attributes:
        vectors: the three persona vectors.
        evidence: how far the response vector reproduces, and the vectors that chance would give.
    """

    vectors: Vectors
    evidence: Evidence


def answer_span(tokenizer: Any, prompt: str, answer: str) -> Span:
    """Return the span of an answer after its prompt, tokenized as the Persona Vectors authors do: joined, then split.

    Args:
        tokenizer: the model's tokenizer.
        prompt: a rendered conversation.
        answer: the answer, not empty.
    """
    before = text_ids(tokenizer, prompt)
    joined = text_ids(tokenizer, prompt + answer)
    if len(joined) <= len(before):
        # Prompt and answer merged into one token; tokenized apart, the answer has tokens of its own.
        joined = before + text_ids(tokenizer, answer)
    return Span(joined, len(before))


def bare_prompt(tokenizer: Any, question: str) -> str:
    """Return the rendered conversation of the question alone, as production traffic asks it."""
    return render(tokenizer, bare(question))


def extract(
    reader: StateReader,
    tokenizer: Any,
    pos: Sequence[JudgedAnswer],
    neg: Sequence[JudgedAnswer],
    read_under: ReadUnder,
    console: Console,
) -> Extraction:
    """Make the vectors of effective pairs.

    The prompt vectors are always made of the prompts that elicited the answers. The bare question is the same text
    under both conditions, so a difference of its states would be rounding error, presented as a vector.

    Args:
        reader: the reader of the model's states.
        tokenizer: the model's tokenizer.
        pos: the positive answers of effective pairs.
        neg: the negative answers of the same pairs, in the same order.
        read_under: whether an answer's states are read after the prompt that elicited it or after the bare question.
        console: where progress is printed.
    """
    shape = (reader.num_layers + 1, reader.hidden_size)
    rows = {"pos": pos, "neg": neg}
    pairs = PairAccumulator(len(pos), [question_number(row) for row in pos], shape)
    order = [(polarity, i) for polarity in POLARITIES for i in range(len(pos))]
    spans = []
    for polarity, i in order:
        row = rows[polarity][i]
        prompt = row.prompt if read_under == "prompt" else bare_prompt(tokenizer, row.question)
        spans.append(answer_span(tokenizer, prompt, row.answer))
    with bar(console, "hidden states: answers", len(spans)) as advance:
        for index, reading in reader.read(spans, advance):
            polarity, i = order[index]
            pairs.add(polarity, i, reading.mean)
    average, last = _prompt_vectors(reader, tokenizer, rows["pos"], rows["neg"], console)
    return Extraction(Vectors(pairs.vector(), average, last), pairs.evidence())


def question_number(row: JudgedAnswer) -> str:
    """Return the identity of a row's question: its text without white space at the ends."""
    return row.question.strip()


def _prompt_vectors(
    reader: StateReader,
    tokenizer: Any,
    pos: Sequence[JudgedAnswer],
    neg: Sequence[JudgedAnswer],
    console: Console,
) -> tuple[Float32Array, Float32Array]:
    """Return the differences of the prompts' mean states and of their last states; each prompt is read once."""
    weights: Counter[str] = Counter()
    for rows, sign in ((pos, 1), (neg, -1)):
        for row in rows:
            weights[row.prompt] += sign
    # A prompt that both conditions have equally often takes no part in the difference.
    prompts = [prompt for prompt, weight in weights.items() if weight]
    average = np.zeros((reader.num_layers + 1, reader.hidden_size))
    last = np.zeros_like(average)
    spans = [Span(text_ids(tokenizer, prompt), 0) for prompt in prompts]
    with bar(console, "hidden states: prompts", len(spans)) as advance:
        for index, reading in reader.read(spans, advance):
            weight = weights[prompts[index]] / len(pos)
            average += weight * reading.mean.astype(np.float64)
            last += weight * reading.last.astype(np.float64)
    return average.astype(np.float32), last.astype(np.float32)
