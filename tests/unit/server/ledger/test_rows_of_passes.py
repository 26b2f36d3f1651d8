"""The rows of a choice from an engine that drafts, drops, prefills in chunks, preempts and recomputes."""

import random
from dataclasses import dataclass

import numpy as np
import pytest

from traitwatch_server.ledger.choice_rows import ChoiceRows, RowBlock, Stage
from traitwatch_server.traits import Columns

COLUMNS = Columns({2: 1})
STAGE = Stage((2,), (1,))
RUNS = 1500


@dataclass
class Rows:
    """Rows of one pass."""

    positions: list[int]
    token_ids: list[int]
    projections: list[float]


class Engine:
    """Generates a known text. A projection is its position plus 1; negative if the text before it is another text."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        letters = rng.choice([2, 3, 50])
        self.prompt = [rng.randrange(letters) for _ in range(rng.randint(1, 40))]
        self.tokens = [rng.randrange(letters) for _ in range(rng.randint(1, 60))]
        self.with_prompt = rng.random() < 0.2
        self._text = self.prompt + self.tokens
        self._letters = letters
        self._block_size = rng.choice([4, 8, 32])
        self._known = len(self.prompt)
        self._computed = self._cached = 0

    def run(self) -> list[Rows | int]:
        """Return the rows of the passes in their order, and the number of tokens after each pass."""
        events: list[Rows | int] = []
        while self._known < len(self._text):
            if self.rng.random() < 0.08:
                self._preempt()
            events += self._pass()
        return events

    def _preempt(self) -> None:
        """Lose the KV cache except for some whole blocks. If the rows of the prompt are wanted, lose all blocks."""
        blocks = min(self._cached, self._known - 1) // self._block_size
        self._computed = 0 if self.with_prompt else self.rng.randint(0, blocks) * self._block_size

    def _pass(self) -> list[Rows | int]:
        budget = self.rng.randint(1, 20)
        first, end = self._computed, min(self._computed + budget, self._known)
        drafts = []
        if end == self._known:
            for place in range(end, end + min(self.rng.randint(0, 4), budget - (end - first))):
                lucky = place < len(self._text) and self.rng.random() < 0.6
                drafts.append(self._text[place] if lucky else self.rng.randrange(self._letters))
        token_ids = self._text[first:end] + drafts
        right = [self._text[first : first + n + 1] == token_ids[: n + 1] for n in range(len(token_ids))]
        skip = 0 if self.with_prompt else max(0, len(self.prompt) - 1 - first)
        positions = list(range(first, first + len(token_ids)))[skip:]
        signs = [1 if ok else -1 for ok in right[skip:]]
        events: list[Rows | int] = []
        if positions:
            values = [sign * (p + 1.0) for sign, p in zip(signs, positions, strict=True)]
            events.append(Rows(positions, token_ids[skip:], values))
        self._computed = end
        if end == self._known:
            accepted = sum(right[end - first :])
            self._computed = min(end + accepted, len(self._text) - 1)
            self._known = min(end + accepted + 1, len(self._text))
            events.append(self._known - len(self.prompt))
        self._cached = max(self._cached, self._computed)
        return events


def interleaved(rng: random.Random, events: list[Rows | int]) -> list[Rows | int]:
    """Return the events with rows and tokens at different speeds, each in its order; or return them unchanged."""
    haste = rng.choice([None, 0.25, 0.5, 0.8])
    if haste is None:
        return events
    rows = [x for x in events if isinstance(x, Rows)][::-1]
    counts = [x for x in events if isinstance(x, int)][::-1]
    mixed: list[Rows | int] = []
    while rows or counts:
        mixed.append(rows.pop() if rows and (not counts or rng.random() < haste) else counts.pop())
    return mixed


@pytest.mark.parametrize("seed", range(3))
def test_no_wrong_state_ever_matches_and_none_is_missing_at_the_end(seed: int) -> None:
    for number in range(RUNS):
        rng = random.Random(seed * RUNS + number)
        engine = Engine(rng)
        choice = ChoiceRows(COLUMNS, with_prompt=engine.with_prompt, reserve=lambda nbytes: True)
        choice.prompt = engine.prompt
        for item in interleaved(rng, engine.run()):
            if isinstance(item, int):
                choice.tokens = engine.tokens[:item]
            else:
                values = np.array(item.projections, dtype=np.float32)[:, None]
                choice.write(STAGE, RowBlock(len(engine.prompt), item.positions, item.token_ids, values))
            states = choice.states(0, choice.matched())[:, 0].tolist()
            assert states == [len(engine.prompt) + place + 1.0 for place in range(len(states))], f"run {number}"
        assert choice.complete(), f"run {number}"
