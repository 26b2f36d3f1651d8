"""Computes z of the mean projection of the shipped answers, at layer `LAYER`.

The answers are the held-out answers of both conditions, and the answers to neutral prompts. `answer_means` reads them
as `traitwatch verify` and `traitwatch calibrate` do.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from traitwatch.vectors import RESPONSE_AVG, Float32Array, load_vector, unit_rows
from traitwatch_builder.progress import bar
from traitwatch_builder.reading.session import ReaderOptions, Session, open_session
from traitwatch_builder.reading.states import Span
from traitwatch_builder.storage.answers import JudgedAnswer, read_answers, read_neutral
from traitwatch_builder.storage.workspace import Workspace
from traitwatch_builder.vectors.calibrate import scored_tokens
from traitwatch_builder.vectors.extract import answer_span, bare_prompt

from .data import LAYER, TRAITS, VECTORS, HeldOutZ, TraitMeans


def answer_means(console: Console, model: Path) -> dict[str, TraitMeans]:
    """Read the shipped answers of every trait with transformers in float32, and return z by trait."""
    with open_session(model, ReaderOptions(), console) as opened:
        neutral = _mean_states(opened, _neutral_spans(opened))
        return {trait: _trait_means(opened, trait, neutral) for trait in TRAITS}


def _trait_means(opened: Session, trait: str, neutral: Float32Array) -> TraitMeans:
    workspace = Workspace(VECTORS, trait)
    loaded = load_vector(workspace.vector(RESPONSE_AVG), trait)
    if loaded.card is None or loaded.card.calibration is None:
        raise RuntimeError(f"{trait}: the shipped card has no calibration")
    baseline = loaded.card.calibration.layers[LAYER]
    direction = unit_rows(loaded.vector)[LAYER]

    def z(states: Float32Array) -> list[float]:
        return [round(float(value), 4) for value in (states @ direction - baseline.mean) / baseline.std]

    sides = {}
    for side in ("pos", "neg"):
        rows = [row for row in read_answers(workspace.answers(f"eval_{side}"), trait) if row.answer.strip()]
        sides[side] = HeldOutZ(z=z(_mean_states(opened, _bare_spans(opened, rows))), scores=[row.trait for row in rows])
    return TraitMeans(sha256=loaded.card.sha256, **sides, neutral=z(neutral))


def _bare_spans(opened: Session, rows: Sequence[JudgedAnswer]) -> list[Span]:
    tokenizer = opened.tokenizer
    return [answer_span(tokenizer, bare_prompt(tokenizer, row.question), row.answer) for row in rows]


def _neutral_spans(opened: Session) -> list[Span]:
    spans = []
    for row in read_neutral(VECTORS / "neutral.csv"):
        span = answer_span(opened.tokenizer, row.prompt, row.answer) if row.answer else None
        tokens = scored_tokens(span.ids[span.start :], finished=row.finished) if span else []
        if span and tokens:
            spans.append(Span([*span.ids[: span.start], *tokens], span.start))
    return spans


def _mean_states(opened: Session, spans: Sequence[Span]) -> Float32Array:
    """Return the mean state of each span at layer `LAYER`: `[num_spans, hidden_size]`, float32."""
    means: dict[int, Float32Array] = {}
    with bar(opened.console, "hidden states", len(spans)) as advance:
        for index, reading in opened.reader().read(spans, advance):
            means[index] = reading.mean[LAYER]
    return np.stack([means[index] for index in range(len(spans))])
