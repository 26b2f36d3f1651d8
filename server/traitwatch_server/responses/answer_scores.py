"""The scores of one answer as JSON fields: parts while the answer is streamed, the summary at its end.

An answer is made of turns, each a choice of a call of the engine. A choice of a chat or a completion has one turn. The
answer of `/v1/responses` or `/v1/messages` has a turn for every call. The endpoint's shape
(`traitwatch_server.responses.endpoints`) knows the turns. Everything here is the same for both kinds of answer.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from traitwatch.vectors import Float32Array
from traitwatch_server.ledger.scores import Scores
from traitwatch_server.ledger.waiter import ROWS_TIMEOUT
from traitwatch_server.responses.schema import Json, Projections, TraitPart, TraitScores
from traitwatch_server.responses.scored_request import Turn
from traitwatch_server.responses.selection import Selection
from traitwatch_server.traits import ServedTrait

# Decimals of a number in a response. bfloat16 keeps 3 significant digits, so 4 decimals lose nothing.
_DECIMALS = 4


class AnswerScores:
    """Puts the scores of one answer into the JSON objects that carry it."""

    def __init__(self, selection: Selection, turns: Callable[[], Sequence[Turn]]):
        """Start with no projection sent.

        Args:
            selection: what the response carries.
            turns: returns the turns of the answer so far, in their order.
        """
        self._selection = selection
        self._turns = turns
        # Tokens whose projections have gone out.
        self._sent = 0

    async def progress(self, fields: Json) -> None:
        """Put the projections since the answer's last event into `fields`, if there are any.

        They are those of all tokens but the last, unless their rows are late.

        Args:
            fields: the JSON object that gets the field `traits`.
        """
        if not self._selection.tokens:
            return
        for turn in self._turns()[-1:]:
            await turn.call.wait_due(turn.choice)
        turns = self._turns()
        start, end = self._sent, _arrived(turns)
        if end <= start:
            return
        values = token_values(self._selection.projections(_states(turns, start, end)))
        parts: dict[str, TraitPart] = {
            name: {"start": start, "tokens": tokens} for name, tokens in zip(self._selection.names, values, strict=True)
        }
        fields["traits"] = parts
        self._sent = end

    async def finish(self, fields: Json, *, whole: bool) -> None:
        """Put the summary of the ended answer, and the projections that no event has carried, into `fields`.

        Args:
            fields: the JSON object that gets the fields `traits` and `traits_complete`.
            whole: whether it carries all projections, whatever earlier events carried.
        """
        complete = await _wait(self._turns())
        turns = self._turns()
        selection = self._selection
        start = 0 if whole else self._sent
        scores = self._scores(turns)
        tokens = token_values(selection.chosen(scores.projections)[:, start:]) if selection.tokens else None
        prompt = None
        if selection.prompt and turns:
            prompt = token_values(selection.projections(turns[0].rows.prompt_states()))
        traits = summaries(scores, selection.traits)
        for i, summary in enumerate(traits.values()):
            if prompt is not None:
                summary["prompt_tokens"] = prompt[i]
            if tokens is not None:
                summary["tokens"] = tokens[i]
                if not whole:
                    summary["start"] = start
        fields["traits"] = traits
        fields["traits_complete"] = complete

    def _scores(self, turns: Sequence[Turn]) -> Scores:
        """Return the scores of the answer for all loaded traits; those of one turn are shared with the recorder."""
        if len(turns) == 1:
            return turns[0].call.scores(turns[0].choice)
        loaded = self._selection.loaded
        total = sum(len(turn.rows.tokens) for turn in turns)
        states = _states(turns, 0, total)[:, loaded.places].T
        if turns:
            last = turns[0].rows.prompt_last()[loaded.places]
        else:
            last = np.full(len(loaded.all), np.nan, dtype=np.float32)
        return Scores(loaded.all, states, last)


def summaries(scores: Scores, traits: Sequence[ServedTrait]) -> dict[str, TraitScores]:
    """Return the summary fields of some of the scored traits, by name, in the order of `traits`."""
    place_of = {trait.name: i for i, trait in enumerate(scores.traits)}
    places = [place_of[trait.name] for trait in traits]
    columns = [scores.mean, scores.mean_z, scores.max_z, scores.prompt_last.astype(np.float64)]
    numbers = _rounded(np.stack(columns, axis=1)[places])
    return {
        trait.name: {
            "layer": trait.layer,
            "mean": mean,
            "z": z,
            "max_z": max_z,
            "prompt_last": prompt_last,
            "spikes": [
                {"start": spike.start, "end": spike.end, "peak_z": round(spike.peak_z, _DECIMALS)}
                for spike in scores.spikes[place]
            ],
        }
        for trait, place, (mean, z, max_z, prompt_last) in zip(traits, places, numbers, strict=True)
    }


def token_values(projections: Float32Array) -> list[Projections]:
    """Return projections as a response carries them: a list for each trait, null where a state is missing.

    Args:
        projections: `[num_traits, num_tokens]`, float32, units of the hidden state; NaN where there is no state.
    """
    return _rounded(projections.astype(np.float64))


async def _wait(turns: Sequence[Turn]) -> bool:
    """Wait for the last rows of an answer; return whether all of them are here."""
    if not all(turn.call.accepted for turn in turns):
        return False
    return all([await turn.call.wait_complete(turn.choice, ROWS_TIMEOUT) for turn in turns])


def _arrived(turns: Sequence[Turn]) -> int:
    """Return how many tokens can go out: without a gap, and each only once the engine has fed it."""
    arrived = 0
    for i, turn in enumerate(turns):
        rows = turn.rows
        matched = rows.matched()
        if i == len(turns) - 1 or matched < len(rows.tokens) - 1:
            return arrived + matched
        arrived += len(rows.tokens)
    return arrived


def _states(turns: Sequence[Turn], start: int, end: int) -> Float32Array:
    """Return the projections of tokens `start` to `end` of an answer: `[end - start, columns]`, float32.

    A row is NaN where it is missing, and for the last token of a turn, which has no state.
    """
    parts: list[Float32Array] = []
    offset = 0
    for turn in turns:
        rows = turn.rows
        first, last = max(0, start - offset), min(len(rows.tokens), end - offset)
        with_state = min(last, len(rows.tokens) - 1)
        if first < last:
            if first < with_state:
                parts.append(rows.states(first, with_state))
            if with_state < last:
                parts.append(np.full((1, rows.columns.total), np.nan, dtype=np.float32))
        offset += len(rows.tokens)
    columns = turns[0].rows.columns.total if turns else 0
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty((0, columns), dtype=np.float32)


def _rounded(values: npt.NDArray[np.float64]) -> list[list[float | None]]:
    """Round every value; NaN becomes None. `values`: two-dimensional."""
    rows: list[list[float | None]] = np.round(values, _DECIMALS).tolist()
    if not math.isnan(values.sum()):
        return rows
    for i in np.nonzero(np.isnan(values).any(axis=1))[0].tolist():
        rows[i] = [None if value != value else value for value in rows[i]]
    return rows
