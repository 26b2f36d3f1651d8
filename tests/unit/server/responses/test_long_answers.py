"""Long answers are scored and encoded in parts. Their numbers and their JSON are those of doing it at once."""

import asyncio
import json
from typing import Any

import msgspec
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from tests.support.traits import served_trait
from traitwatch.spikes import find_spikes
from traitwatch_server.ledger import row_store, scores
from traitwatch_server.ledger.call import Call
from traitwatch_server.ledger.ledger import Ledger
from traitwatch_server.metrics import Metrics
from traitwatch_server.pacing import Pacer, at_once
from traitwatch_server.responses import answer_scores, long_lists
from traitwatch_server.responses.answer_scores import AnswerScores
from traitwatch_server.responses.long_lists import LongLists
from traitwatch_server.responses.scored_request import Turn
from traitwatch_server.responses.selection import Selection
from traitwatch_server.traits import trait_set
from traitwatch_server.wire import RowFrame, RowRun

TRAITS, PROMPT, TOKENS = 5, 3_000, 5_000
LOADED = trait_set([served_trait(f"t{i}", column=i, mean=0.1, std=1.7, threshold=1.0) for i in range(TRAITS)])
VALUES = np.random.default_rng(3).standard_normal((PROMPT + TOKENS - 1, TRAITS)).astype(np.float32) * 4


def answered(ledger: Ledger, lost: range) -> Call:
    """Return a call with the rows of a long prompt and a long answer, some of them lost."""
    call = ledger.open(LOADED, with_prompt=True)
    ids = [i % 1_000 for i in range(PROMPT + TOKENS)]
    call.choice(0).prompt = ids[:PROMPT]
    call.choice(0).tokens.extend(ids[PROMPT:])
    for first in range(0, PROMPT + TOKENS - 1, 500):
        whole = range(first, min(first + 500, PROMPT + TOKENS - 1))
        before, after = range(first, min(whole.stop, lost.start)), range(max(first, lost.stop), whole.stop)
        for part in filter(len, (before, after) if lost else (whole,)):
            rows = np.column_stack([part, [ids[i] for i in part], VALUES[part.start : part.stop]]).astype(np.float32)
            run = RowRun(call.key, "x", PROMPT, len(part))
            ledger.deliver(RowFrame([2], [TRAITS], [run], 0, 0, 0.0, rows.tobytes()))
    return call


async def answer(call: Call) -> bytes:
    selection = Selection(LOADED.all[::-1], LOADED, prompt=True)
    lists = LongLists()
    fields: dict[str, Any] = {}
    await AnswerScores(selection, lambda: [Turn(call, 0)], Pacer(), lists).finish(fields, whole=True)
    return b"".join(lists.splice(msgspec.json.encode(fields)))


@pytest.fixture
def ledger() -> Ledger:
    return Ledger("api", Metrics(CollectorRegistry()))


@pytest.mark.parametrize("lost", [range(0), range(2_990, 3_100)], ids=["all rows", "rows lost"])
async def test_the_answer_is_the_same_to_the_last_digit(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, lost: range
) -> None:
    monkeypatch.setattr(answer_scores, "ROWS_TIMEOUT", 0.01)
    with monkeypatch.context() as whole:
        whole.setattr(row_store, "BLOCK_ROWS", 2**20)
        whole.setattr(scores, "STEP_NUMBERS", 2**40)
        whole.setattr(answer_scores, "_AT_ONCE", 2**40)
        expected = await answer(answered(ledger, lost))
    for name, size in (("_AT_ONCE", 700), ("STEP_NUMBERS", 900)):
        monkeypatch.setattr(answer_scores if name == "_AT_ONCE" else scores, name, size)
    found = await answer(answered(ledger, lost))
    assert found == expected
    of_trait = json.loads(found)["traits"]["t2"]
    assert json.loads(found)["traits_complete"] is not bool(lost)
    assert [(s["start"], s["end"]) for s in of_trait["spikes"]] == [(s.start, s.end) for s in _spikes(2, lost)]
    assert len(of_trait["tokens"]) == TOKENS
    assert len(of_trait["prompt_tokens"]) == PROMPT


def _spikes(trait: int, lost: range) -> Any:
    states = VALUES[PROMPT:, trait].astype(np.float64)
    states[[i - PROMPT for i in lost if i >= PROMPT]] = np.nan
    return find_spikes([*((states - 0.1) / 1.7).tolist(), None], 1.0)


async def test_a_trait_has_the_same_scores_beside_others(ledger: Ledger) -> None:
    """No number depends on how many traits are computed together."""
    alone = trait_set([served_trait("t3", column=0, mean=0.1, std=1.7, threshold=1.0)])
    call = ledger.open(alone)
    call.choice(0).prompt = [1]
    call.choice(0).tokens.extend([5] * TOKENS)
    rows = np.column_stack([np.arange(1, TOKENS), np.full(TOKENS - 1, 5), VALUES[PROMPT:, 3]]).astype(np.float32)
    for first in range(0, TOKENS - 1, 700):
        part = rows[first : first + 700]
        ledger.deliver(RowFrame([2], [1], [RowRun(call.key, "x", 1, len(part))], 0, 0, 0.0, part.tobytes()))
    together = answered(ledger, range(0))
    pacer = Pacer()
    one, all_ = await asyncio.gather(pacer.run(call.scores(0)), pacer.run(together.scores(0)))
    assert one.mean.tolist() == [all_.mean[3]]
    assert one.max_z.tolist() == [all_.max_z[3]]
    assert one.token_z[0].tolist() == all_.token_z[3].tolist()
    assert one.spikes[0] == all_.spikes[3]


async def test_response_and_record_score_an_answer_once(ledger: Ledger) -> None:
    call = answered(ledger, range(0))
    pacer = Pacer()
    one, other = await asyncio.gather(pacer.run(call.scores(0)), pacer.run(call.scores(0)))
    assert one is other


def test_a_text_that_looks_like_a_mark_stays() -> None:
    lists = LongLists()
    fields = {"text": '"0123456789abcdef:1"', "list": at_once(lists.add([[1.5, None], [], [2.0]]))}
    assert json.loads(b"".join(lists.splice(msgspec.json.encode(fields)))) == {**fields, "list": [1.5, None, 2.0]}
    assert at_once(lists.add([])) is not None
    assert len(long_lists._SECRET) == 32
