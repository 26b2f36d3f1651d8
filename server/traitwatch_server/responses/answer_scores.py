"""The scores of one answer as JSON fields: parts while the answer is streamed, the summary at its end.

An answer is made of turns, each a choice of a call of the engine. A choice of a chat or a completion has one turn. The
answer of `/v1/responses` or `/v1/messages` has a turn for every call. The endpoint's shape
(`traitwatch_server.responses.endpoints`) knows the turns. Everything here is the same for both kinds of answer.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from traitwatch.spikes import Spike
from traitwatch.vectors import Float32Array
from traitwatch_server.ledger.scores import Scores, States, score, states_of
from traitwatch_server.ledger.waiter import ROWS_TIMEOUT
from traitwatch_server.pacing import Pacer, Steps
from traitwatch_server.responses.long_lists import LongLists
from traitwatch_server.responses.schema import Json, Projections, TraitPart, TraitScores, TraitSpike
from traitwatch_server.responses.scored_request import Turn
from traitwatch_server.responses.selection import Selection
from traitwatch_server.traits import ServedTrait

# Decimals of a number in a response. bfloat16 keeps 3 significant digits, so 4 decimals lose nothing.
_DECIMALS = 4
# Numbers, or spikes, that are made into JSON at once: about a millisecond. Longer lists are encoded in parts.
_AT_ONCE = 2**13


class AnswerScores:
    """Puts the scores of one answer into the JSON objects that carry it."""

    def __init__(self, selection: Selection, turns: Callable[[], Sequence[Turn]], pacer: Pacer, lists: LongLists):
        """Start with no projection sent.

        Args:
            selection: what the response carries.
            turns: returns the turns of the answer so far, in their order.
            pacer: shares the event loop among all work on long answers.
            lists: takes the lists that are too long to be encoded at once.
        """
        self._selection = selection
        self._turns = turns
        self._pacer = pacer
        self._lists = lists
        # Tokens whose projections have gone out.
        self._sent = 0

    async def progress(self, fields: Json) -> None:
        """Put the projections since the answer's last event into `fields`, if there are any.

        They are those of all tokens but the last, unless their rows are late, or they are very many. A later event
        carries the rest.

        Args:
            fields: the JSON object that gets the field `traits`.
        """
        if not self._selection.tokens or self._selection.echo_only:
            return
        for turn in self._turns()[-1:]:
            await turn.call.wait_due(turn.choice)
        turns = self._turns()
        start = self._sent
        end = min(_arrived(turns), start + _AT_ONCE // max(1, len(self._selection.traits)) + 1)
        if end <= start:
            return
        values = token_values(self._selection.projections(_read(turns, start, end)))
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
        fields["traits"] = await self._pacer.run(self._summary(whole=whole))
        fields["traits_complete"] = complete

    def _summary(self, *, whole: bool) -> Steps[dict[str, TraitScores]]:
        turns = self._turns()
        selection = self._selection
        start = 0 if whole else self._sent
        scores = yield from self._scores(turns)
        traits = yield from summaries(scores, selection.traits, self._lists)
        if selection.prompt and turns:
            rows = turns[0].rows
            prompt = yield from self._lists_of(States(len(rows.prompt), rows.prompt_states), 0)
            for summary, values in zip(traits.values(), prompt, strict=True):
                summary["prompt_tokens"] = values
        if selection.tokens:
            # With echo and `max_tokens: 0`, vLLM generates a token that the answer has not.
            count = 0 if selection.echo_only else _count(turns)
            tokens = yield from self._lists_of(States(count, lambda start, end: _read(turns, start, end)), start)
            for summary, values in zip(traits.values(), tokens, strict=True):
                summary["tokens"] = values
                if not whole:
                    summary["start"] = start
        return traits

    def _scores(self, turns: Sequence[Turn]) -> Steps[Scores]:
        """Return the scores of the answer for all loaded traits; those of one turn are shared with the recorder."""
        if len(turns) == 1:
            return (yield from turns[0].call.scores(turns[0].choice))
        loaded = self._selection.loaded
        last = turns[0].rows.prompt_last() if turns else np.full(loaded.columns.total, np.nan, dtype=np.float32)
        return (yield from score(loaded, States(_count(turns), lambda start, end: _read(turns, start, end)), last))

    def _lists_of(self, states: States, start: int) -> Steps[list[Any]]:
        """Return for each selected trait the projections from `start` on, as a list or what stands for it."""
        selection = self._selection
        count = max(0, states.count - start)
        if count * len(selection.traits) <= _AT_ONCE:
            if not count:
                return [[] for _ in selection.traits]
            return token_values(selection.projections(states.read(start, states.count)))

        def parts(place: int) -> Iterator[Projections]:
            for first in range(start, states.count, _AT_ONCE):
                values = states.read(first, min(first + _AT_ONCE, states.count))[:, place]
                yield token_values(values[None])[0]

        lists = []
        for place in selection.places.tolist():
            lists.append((yield from self._lists.add(parts(place))))
        return lists


def summaries(scores: Scores, traits: Sequence[ServedTrait], lists: LongLists) -> Steps[dict[str, TraitScores]]:
    """Return the summary fields of some of the scored traits, by name, in the order of `traits`."""
    place_of = {trait.name: i for i, trait in enumerate(scores.traits)}
    places = [place_of[trait.name] for trait in traits]
    columns = [scores.mean, scores.mean_z, scores.max_z, scores.prompt_last.astype(np.float64)]
    numbers = _rounded(np.stack(columns, axis=1)[places])
    fields: dict[str, TraitScores] = {}
    # All short lists together are encoded at once.
    left = _AT_ONCE // 4
    for trait, place, (mean, z, max_z, prompt_last) in zip(traits, places, numbers, strict=True):
        spikes = scores.spikes[place]
        left -= len(spikes)
        fields[trait.name] = {
            "layer": trait.layer,
            "mean": mean,
            "z": z,
            "max_z": max_z,
            "prompt_last": prompt_last,
            "spikes": _spike_fields(spikes) if left >= 0 else (yield from lists.add(_spike_parts(spikes))),
        }
    return fields


def _spike_fields(spikes: Sequence[Spike]) -> list[TraitSpike]:
    return [{"start": spike.start, "end": spike.end, "peak_z": round(spike.peak_z, _DECIMALS)} for spike in spikes]


def _spike_parts(spikes: Sequence[Spike]) -> Iterator[list[TraitSpike]]:
    size = _AT_ONCE // 8
    for first in range(0, len(spikes), size):
        yield _spike_fields(spikes[first : first + size])


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


def _count(turns: Sequence[Turn]) -> int:
    return sum(len(turn.rows.tokens) for turn in turns)


def _read(turns: Sequence[Turn], start: int, end: int) -> Float32Array:
    """Return the projections of tokens `start` to `end` of an answer: `[end - start, columns]`, float32.

    A row is NaN where it is missing, and for the last token of a turn, which has no state.
    """
    parts: list[Float32Array] = []
    offset = 0
    for turn in turns:
        rows = turn.rows
        count = len(rows.tokens)
        first, last = max(0, start - offset), min(count, end - offset)
        if first < last:
            parts.append(states_of(rows, first, last))
        offset += count
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _rounded(values: npt.NDArray[np.float64]) -> list[list[float | None]]:
    """Round every value; NaN becomes None. `values`: two-dimensional."""
    rows: list[list[float | None]] = np.round(values, _DECIMALS).tolist()
    if not math.isnan(values.sum()):
        return rows
    for i in np.nonzero(np.isnan(values).any(axis=1))[0].tolist():
        rows[i] = [None if value != value else value for value in rows[i]]
    return rows
