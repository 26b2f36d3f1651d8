"""Scores of given projections, for the server's unit tests."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from traitwatch.vectors import Float32Array
from traitwatch_server.ledger.scores import Scores, States, score
from traitwatch_server.pacing import at_once
from traitwatch_server.traits import Columns, ServedTrait, TraitSet


def scores_of(traits: Sequence[ServedTrait], projections: Float32Array, prompt_last: Float32Array) -> Scores:
    """Return the scores of an answer.

    Args:
        traits: traits of one layer; each gets a column of its own.
        projections: `[num_traits, num_tokens]`, the last token NaN.
        prompt_last: `[num_traits]`.
    """
    in_columns = [dataclasses.replace(trait, layer=2, column=i) for i, trait in enumerate(traits)]
    loaded = TraitSet({trait.name: trait for trait in in_columns}, Columns({2: len(traits)}))
    rows = np.ascontiguousarray(projections.T)
    scores = at_once(score(loaded, States(len(rows), lambda start, end: rows[start:end]), prompt_last))
    return dataclasses.replace(scores, traits=tuple(traits))
