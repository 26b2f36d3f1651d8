"""The plan of a run has a comparison for every goal, and neither server always goes first."""

from collections import Counter

import click
import pytest

from tests.benchmarks.serving.__main__ import FULL, _load
from tests.benchmarks.serving.load import Load
from tests.benchmarks.serving.plan import (
    CONTROL,
    GOAL_CONCURRENCY,
    HIDDEN_STATES,
    PLAIN,
    Comparison,
    order,
    plan,
    run_seconds,
    scores,
    traits_side,
)
from tests.benchmarks.serving.report import GOALS

LOADS = [Load(1, 6, 64, 64), Load(8, 24, 64, 64), Load(32, 96, 64, 64)]
SIDES = [*(traits_side(count) for count in (0, 1, 6, 64)), HIDDEN_STATES, CONTROL]


def test_every_goal_is_measured_at_its_concurrency() -> None:
    measured = {(c.side, c.base) for c in plan(SIDES, LOADS) if any(x.concurrency == GOAL_CONCURRENCY for x in c.loads)}
    assert {(side, base) for side, base, _, _ in GOALS} <= measured


def test_the_full_run_is_that_of_the_issue() -> None:
    assert FULL["modes"] == ("eager", "compiled")
    assert FULL["pairs"] >= 5
    loads = [_load(text, 64, 64) for text in FULL["loads"]]
    assert [load.concurrency for load in loads] == [1, 8, 32]
    compared = {c.side: [load.concurrency for load in c.loads] for c in plan(SIDES, loads) if c.base == PLAIN}
    assert all(compared[traits_side(count)] == [1, 8, 32] for count in (0, 1, 6, 64))
    assert {HIDDEN_STATES, CONTROL} < set(compared)


def test_either_side_goes_first_as_often_under_every_load() -> None:
    comparison = Comparison(PLAIN, traits_side(6), tuple(LOADS))
    for number in range(3):
        orders = [order(comparison, pair, number) for pair in range(6)]
        assert Counter(first for first, _ in orders) == {PLAIN: 3, traits_side(6): 3}
        assert all(set(one) == {PLAIN, traits_side(6)} for one in orders)


def test_more_pairs_take_longer_and_an_eager_run_less_than_both() -> None:
    comparisons = plan(SIDES, LOADS)
    assert run_seconds(["eager"], comparisons, 5) < run_seconds(["eager"], comparisons, 6)
    assert run_seconds(["eager"], comparisons, 6) < run_seconds(["eager", "compiled"], comparisons, 6) / 2


def test_scored_sides_are_those_whose_answers_carry_scores() -> None:
    assert [side for side in SIDES if scores(side)] == ["1 trait", "6 traits", "64 traits"]


@pytest.mark.parametrize("bad", ["32", "x8", "32x", "32x16", "0x4"])
def test_a_load_that_cannot_be_is_refused(bad: str) -> None:
    # Do not call the command: without the check, it would start the whole run.
    with pytest.raises(click.BadParameter, match="STREAMSxPROMPTS"):
        _load(bad, 64, 64)
