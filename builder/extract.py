"""From judged answers to persona vectors: choose effective pairs, average hidden states, subtract.

A pair is effective when the positive answer shows the trait, the negative one does not, and both are coherent; the
positive and the negative row at the same index answer the same question (Persona Vectors, arXiv 2507.21509).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from builder.artifacts import Float32Array
from builder.conversation import Elicitation, Polarity, Row, answer_ids, bare
from builder.errors import PipelineError
from builder.reader import Reader, States, Text, shared_prefix

ReadUnder = Literal["prompt", "question"]


@dataclass(frozen=True)
class JudgedAnswer:
    """An answer with its scores, 0 to 100."""

    answer: str
    trait: float
    coherence: float


@dataclass(frozen=True)
class Vectors:
    """The three persona vectors of a trait, each `[num_layers + 1, hidden_size]`, float32."""

    response_avg: Float32Array
    prompt_avg: Float32Array
    prompt_last: Float32Array


def effective_pairs(
    pos: Sequence[JudgedAnswer], neg: Sequence[JudgedAnswer], threshold: float = 50.0, coherence: float = 50.0
) -> list[int]:
    """Return the indices of the effective pairs.

    Args:
        pos: answers under the positive condition.
        neg: answers under the negative condition; index i is of the same pair.
        threshold: the positive answer scores at least this, the negative one less than 100 minus this.
        coherence: both are at least this coherent.

    Raises:
        PipelineError: none is, with how many pairs each filter let through.
    """
    if len(pos) != len(neg):
        raise PipelineError(f"{len(pos)} positive answers and {len(neg)} negative ones do not pair up.")
    shows = [p.trait >= threshold for p in pos]
    lacks = [n.trait < 100.0 - threshold for n in neg]
    # An empty answer has no state to average, whatever coherence is asked for.
    coherent = [
        min(p.coherence, n.coherence) >= coherence and bool(p.answer.strip()) and bool(n.answer.strip())
        for p, n in zip(pos, neg, strict=True)
    ]
    effective = [i for i in range(len(pos)) if shows[i] and lacks[i] and coherent[i]]
    if not effective:
        raise PipelineError(
            f"no effective pair among {len(pos)}: {sum(shows)} positive answers score {threshold:g} or more, "
            f"{sum(lacks)} negative ones score below {100.0 - threshold:g}, {sum(coherent)} pairs reach coherence "
            f"{coherence:g}. The model may not follow this elicitation: try the other --elicit, a lower --temperature, "
            "or lower --threshold and --coherence."
        )
    return effective


def read_states(
    reader: Reader,
    elicitation: Elicitation,
    rows: Sequence[Row],
    answers: Sequence[str],
    polarity: Polarity,
    read_under: ReadUnder,
    advance: Callable[[int], None],
) -> list[States]:
    """Return the states of answers, read after the prompt that elicited them or after the bare question.

    The prompt's own states are always those of the prompt that elicited the answer. The bare question is the same text
    under both conditions: the difference of its states would be rounding error, made out to be a vector.

    Args:
        reader: the model.
        elicitation: what elicited the answers.
        rows: what each answer answers.
        answers: the answers' texts, none empty.
        polarity: the condition under which they were written.
        read_under: what stands before an answer when its states are read.
        advance: called with the number of answers that have just been read.
    """
    prompts = [reader.token_ids(elicitation.prompt(row, polarity)) for row in rows]
    before = prompts if read_under == "prompt" else [reader.token_ids(bare(row.question)) for row in rows]
    texts: list[Text] = [
        (prompt, answer_ids(reader.tokenizer, answer)) for prompt, answer in zip(before, answers, strict=True)
    ]
    states = list(reader.mean_states(texts, advance))
    if read_under == "prompt":
        return states
    of_prompt: dict[tuple[int, ...], tuple[Float32Array, Float32Array]] = {}
    for context in sorted({row.context for row in rows}):
        # Many answers share a prompt, and all prompts of a context their opening.
        mine = {tuple(prompt): prompt for prompt, row in zip(prompts, rows, strict=True) if row.context == context}
        read = reader.prompt_states(shared_prefix(list(mine.values())), list(mine.values()), lambda count: None)
        of_prompt |= dict(zip(mine, read, strict=True))
    return [
        replace(state, prompt_avg=of_prompt[tuple(prompt)][0], prompt_last=of_prompt[tuple(prompt)][1])
        for state, prompt in zip(states, prompts, strict=True)
    ]


def difference(pos: Iterable[States], neg: Iterable[States]) -> Vectors:
    """Return the mean over the positive answers minus the mean over the negative ones, per layer.

    Sums are kept in float64, so that the order of answers does not show in the float32 result.
    """
    pos_means, neg_means = _means(pos), _means(neg)
    return Vectors(*((p - n).astype(np.float32) for p, n in zip(pos_means, neg_means, strict=True)))


def _means(states: Iterable[States]) -> list[np.ndarray]:
    totals: list[np.ndarray] | None = None
    count = 0
    for state in states:
        parts = [a.astype(np.float64) for a in (state.response_avg, state.prompt_avg, state.prompt_last)]
        totals = parts if totals is None else [t + p for t, p in zip(totals, parts, strict=True)]
        count += 1
    if totals is None:
        raise PipelineError("there is no answer to average.")
    return [total / count for total in totals]


def split_half_cosine(
    pos: Sequence[States], neg: Sequence[States], questions: Sequence[int], layer: int, seed: int
) -> float | None:
    """Return the cosine between the response vectors of two halves of the questions: is the vector reproducible?

    Args:
        pos: states of the positive answers.
        neg: states of the negative ones.
        questions: the question that each pair answers; a question is in one half alone.
        layer: the layer index.
        seed: of the split.

    Returns:
        The cosine; None where there is one question only.
    """
    order = np.random.default_rng(seed).permutation(np.unique(questions))
    if len(order) < 2:
        return None
    halves = []
    for half in (order[: len(order) // 2], order[len(order) // 2 :]):
        mine = np.flatnonzero(np.isin(questions, half))
        vectors = difference([pos[i] for i in mine], [neg[i] for i in mine])
        halves.append(vectors.response_avg[layer].astype(np.float64))
    one, other = halves
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
