"""One HTTP request that is scored: the calls of the engine that it makes, and the scores of their choices.

The middleware puts it into a context variable, where the engine's `generate` (`traitwatch_server.app.engine`) finds it: whatever an
endpoint of vLLM does between the two, its calls are known in their order, with every token that they generate.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from enum import Enum
from typing import Any

import numpy as np

from traitwatch.vectors import Float32Array
from traitwatch_server.ledger.choice_rows import ChoiceRows
from traitwatch_server.ledger.ledger import ROWS_TIMEOUT, Call, Ledger
from traitwatch_server.ledger.scores import Scores, token_values
from traitwatch_server.responses.schema import TraitPart
from traitwatch_server.responses.selection import Selection


class ScoredRequest:
    """What is known of one request's answers so far.

    Attributes:
        selection: what its response is to carry.
    """

    def __init__(self, selection: Selection, ledger: Ledger):
        self.selection = selection
        self._ledger = ledger
        self._calls: list[Call] = []
        self._closed = False
        # Of each answer, the tokens whose projections have gone out.
        self._sent: dict[int | None, int] = {}

    def open_call(self, request_id: str, num_choices: int) -> Call | None:
        """Open a call of the engine, which the response and the recorder hold; None once the response is over."""
        if self._closed:
            return None
        call = self._ledger.open(
            self.selection.loaded,
            num_choices,
            request_id=request_id,
            with_prompt=self.selection.prompt,
            holders=2,
        )
        self._calls.append(call)
        return call

    def close(self) -> None:
        """Need the calls and their rows no more."""
        self._closed = True
        for call in self._calls:
            if call.started:
                self._ledger.release(call)
            else:
                # The engine was never asked for an output, so nobody will say that the call has ended.
                self._ledger.close(call)

    async def progress(self, carrier: dict[str, Any], answer: int | None) -> None:
        """Put the projections since the answer's last event into `carrier`, if there are any.

        Those of all tokens but the last, unless their rows are late.

        Args:
            carrier: the JSON object that gets the field `traits`.
            answer: the number of the choice; None for an answer that is all calls of the request in their order.
        """
        if not self.selection.tokens:
            return
        await self._wait_due(answer)
        turns = self._turns(answer)
        start, end = self._sent.get(answer, 0), _arrived(turns)
        if end <= start:
            return
        values = token_values(self.selection.projections(_states(turns, start, end)))
        parts: dict[str, TraitPart] = {
            name: {"start": start, "tokens": tokens} for name, tokens in zip(self.selection.names, values, strict=True)
        }
        carrier["traits"] = parts
        self._sent[answer] = end

    async def finish(self, carrier: dict[str, Any], answer: int | None, *, whole: bool) -> None:
        """Put the summary of an answer that ended, and the tokens that no event has carried, into `carrier`.

        Args:
            carrier: the JSON object that gets the fields `traits` and `traits_complete`.
            answer: as of `progress`.
            whole: whether it carries all tokens, whatever earlier events carried.
        """
        complete = await self._wait(answer)
        turns = self._turns(answer)
        total = sum(len(rows.tokens) for rows in turns)
        start = 0 if whole else self._sent.get(answer, 0)
        selection = self.selection
        scores = self._scores(answer, turns, total)
        tokens = token_values(selection.chosen(scores.projections)[:, start:]) if selection.tokens else None
        prompt = token_values(selection.projections(turns[0].prompt_states())) if selection.prompt and turns else None
        traits = scores.of(selection.traits)
        for i, fields in enumerate(traits.values()):
            if prompt is not None:
                fields["prompt_tokens"] = prompt[i]
            if tokens is not None:
                fields["tokens"] = tokens[i]
                if not whole:
                    fields["start"] = start
        carrier["traits"] = traits
        carrier["traits_complete"] = complete

    def _turns(self, answer: int | None) -> list[ChoiceRows]:
        """Return what an answer is made of: one choice of one call, or the only choice of every call."""
        if answer is None:
            return [call.choice(0) for call in self._calls]
        call, index = self._call(answer)
        return [call.choice(index)]

    def _call(self, answer: int) -> tuple[Call, int]:
        """Return the call that made choice number `answer` of the response, and the choice's number in it."""
        for call in self._calls:
            if answer < call.num_choices:
                return call, answer
            answer -= call.num_choices
        raise LookupError(f"the response has {answer + 1} more choices than the engine was asked for")

    async def _wait_due(self, answer: int | None) -> None:
        """Wait a moment for rows that the answer's event has overtaken."""
        if answer is not None:
            call, index = self._call(answer)
            await call.wait_due(index)
        elif self._calls:
            await self._calls[-1].wait_due(0)

    async def _wait(self, answer: int | None) -> bool:
        """Wait for the last rows; return whether they are all here."""
        parts = [(call, 0) for call in self._calls] if answer is None else [self._call(answer)]
        if not all(call.accepted for call, _ in parts):
            return False
        return all([await call.wait_complete(index, ROWS_TIMEOUT) for call, index in parts])

    def _scores(self, answer: int | None, turns: Sequence[ChoiceRows], total: int) -> Scores:
        """Return the scores of an answer for all loaded traits."""
        if answer is not None:
            call, index = self._call(answer)
            return call.scores(index)
        if len(self._calls) == 1:
            return self._calls[0].scores(0)
        loaded = self.selection.loaded
        states = _states(turns, 0, total)[:, loaded.places].T
        last = turns[0].prompt_last()[loaded.places] if turns else np.full(len(loaded.all), np.nan, dtype=np.float32)
        return Scores(loaded.all, states, last)


class Unscorable(Enum):
    """Stands in the place of a scored request where the calls of the engine are no runs of tokens."""

    UNSCORABLE = "unscorable"


# The request whose handler is running; the calls of the engine that it makes are its own. None: one whose response
# carries no scores, or none at all.
SCORED_REQUEST: ContextVar[ScoredRequest | Unscorable | None] = ContextVar("traitwatch_scored_request", default=None)


def _arrived(turns: Sequence[ChoiceRows]) -> int:
    """Return how many tokens can be told: without a gap, and each only once the engine has fed it."""
    told = 0
    for i, rows in enumerate(turns):
        matched = rows.matched()
        if i == len(turns) - 1 or matched < len(rows.tokens) - 1:
            return told + matched
        told += len(rows.tokens)
    return told


def _states(turns: Sequence[ChoiceRows], start: int, end: int) -> Float32Array:
    """Return the projections of tokens `start` to `end` of an answer: `[end - start, columns]`, float32.

    A row is NaN where it is missing, and for the last token of a turn, which has no state.
    """
    parts: list[Float32Array] = []
    offset = 0
    for rows in turns:
        first, last = max(0, start - offset), min(len(rows.tokens), end - offset)
        with_state = min(last, len(rows.tokens) - 1)
        if first < last:
            if first < with_state:
                parts.append(rows.states(first, with_state))
            if with_state < last:
                parts.append(np.full((1, rows.columns.total), np.nan, dtype=np.float32))
        offset += len(rows.tokens)
    columns = turns[0].columns.total if turns else 0
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty((0, columns), dtype=np.float32)
