"""A row counts at its own place, and only with the token that the response has there."""

import math
from array import array
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traitwatch_server.ledger.choice_rows import ChoiceRows, RowBlock, Stage
from traitwatch_server.traits import Columns
from traitwatch_server.wire import UNKNOWN_TOKEN

PROMPT = [100, 101, 102]
TOKENS = [7, 8, 9, 7]
ONE = Columns({2: 1})


def choice(columns: Columns = ONE, *, with_prompt: bool = False, room: bool = True) -> ChoiceRows:
    rows = ChoiceRows(columns, with_prompt=with_prompt, reserve=lambda nbytes: room)
    rows.prompt, rows.tokens = PROMPT, array("i", TOKENS)
    return rows


def write(
    rows: ChoiceRows,
    places: Sequence[int],
    token_ids: Sequence[int],
    layers: tuple[int, ...] = (2,),
    value: float = 0.0,
) -> bool:
    """Write rows at places. The place -1 is the prompt-last state. Each projection is its place plus `value`."""
    values = np.array([[place + value] * len(layers) for place in places], dtype=np.float32)
    block = RowBlock(len(PROMPT), [place + len(PROMPT) for place in places], token_ids, values)
    return rows.write(Stage(layers, (1,) * len(layers)), block)


def test_rows_are_found_by_place() -> None:
    rows = choice()
    write(rows, [-1, 0, 1], [102, 7, 8])
    assert (rows.matched(), rows.complete()) == (2, False)
    write(rows, [2], [9])
    assert rows.prompt_last().tolist() == [-1]
    assert rows.states(0, 3)[:, 0].tolist() == [0, 1, 2]
    assert rows.states(1, 2)[:, 0].tolist() == [1]
    assert (rows.matched(), rows.complete()) == (3, True)


def test_a_later_write_replaces_the_earlier_one() -> None:
    rows = choice()
    write(rows, [-1, 0, 1, 2], [102, 7, 8, 9])
    write(rows, [0, 1], [7, 8], value=0.5)
    assert rows.states(0, 3)[:, 0].tolist() == [0.5, 1.5, 2]


def test_a_draft_that_was_rejected_leaves_no_trace() -> None:
    """Two drafts were tried after token 0. The first was accepted. The second is not the sampled token."""
    rows = choice()
    rows.tokens = array("i", [7])
    write(rows, [-1], [102])
    write(rows, [0, 1, 2], [7, 8, 55], value=0.25)
    rows.tokens = array("i", [7, 8, 9])
    assert rows.matched() == 2
    assert rows.states(0, 2)[:, 0].tolist() == [0.25, 1.25]
    rows.tokens = array("i", [7, 8, 9, 7])
    assert rows.matched() == 2, "the row at place 2 is still that of the draft"
    assert math.isnan(rows.states(0, 3)[2, 0])
    write(rows, [2], [9], value=0.5)
    assert rows.matched() == 3
    assert rows.states(0, 3)[:, 0].tolist() == [0.25, 1.25, 2.5]


def test_a_row_of_another_response_is_missing_instead_of_wrong() -> None:
    rows = choice()
    write(rows, [-1, 0, 1, 2], [102, 7, 66, 9])
    assert (rows.matched(), rows.complete()) == (1, False)
    assert np.isnan(rows.states(0, 3)[:, 0]).tolist() == [False, True, False]


def test_the_prompt_last_state_must_be_of_the_prompts_last_token() -> None:
    rows = choice()
    write(rows, [-1, 0, 1, 2], [99, 7, 8, 9])
    assert rows.matched() == 3
    assert not rows.complete()
    assert math.isnan(rows.prompt_last()[0])


def test_the_prompts_rows_where_they_are_wanted() -> None:
    rows = choice(with_prompt=True)
    write(rows, [-3, -2], [100, 101])
    write(rows, [-1, 0, 1, 2], [102, 7, 8, 9])
    assert rows.prompt_states(0, 3)[:, 0].tolist() == [-3, -2, -1]
    assert rows.states(0, 3)[:, 0].tolist() == [0, 1, 2]
    assert rows.prompt_last().tolist() == [-1]
    assert rows.complete()


def test_a_missing_row_of_the_prompt_is_not_complete() -> None:
    rows = choice(with_prompt=True)
    write(rows, [-2, -1, 0, 1, 2], [101, 102, 7, 8, 9])
    assert not rows.complete()
    assert np.isnan(rows.prompt_states(0, 3)[:, 0]).tolist() == [True, False, False]


def test_a_row_before_the_first_of_interest_is_refused() -> None:
    with pytest.raises(ValueError, match="before the first of interest"):
        write(choice(), [-2], [101])


def test_stages_of_a_pipeline_fill_their_own_columns() -> None:
    rows = choice(Columns({1: 1, 2: 1, 4: 1}))
    write(rows, [-1, 0, 1, 2], [102, 7, 8, 9], layers=(1, 2))
    assert rows.matched() == 0, "the other stage has sent nothing"
    write(rows, [-1, 0], [102, 7], layers=(4,), value=0.5)
    assert rows.matched() == 1
    assert rows.states(0, 1).tolist() == [[0, 0, 0.5]]
    write(rows, [1, 2], [8, 9], layers=(4,), value=0.5)
    assert rows.complete()


def test_without_room_rows_are_dropped_and_write_returns_false() -> None:
    rows = choice(room=False)
    assert write(rows, [-1, 0], [102, 7]) is False
    assert rows.matched() == 0
    assert np.isnan(rows.states(0, 3)).all()


def test_an_answer_without_tokens_waits_for_nothing() -> None:
    rows = choice()
    rows.tokens = array("i", [])
    assert rows.complete()


@given(st.lists(st.tuples(st.integers(-1, 40), st.integers(1, 6)), max_size=25), st.integers(1, 45))
def test_like_a_naive_store(writes: list[tuple[int, int]], num_tokens: int) -> None:
    """Any order of writes gives the same as a dictionary of places, with tokens that match or not.

    A write may bring another token than a place had. Then the rows after the write belong to another text, and are
    removed.
    """
    rows = choice()
    rows.tokens = array("i", [i % 3 for i in range(num_tokens)])
    rows.prompt = [0, 0, 2]
    naive: dict[int, tuple[int, float]] = {}
    for number, (start, count) in enumerate(writes):
        places = range(start, start + count)
        # Every third write has tokens of another text.
        token_ids = [(place + (number % 3 == 2)) % 3 for place in places]
        write(rows, places, token_ids, value=number / 64)
        if any(p in naive and naive[p][0] != t for p, t in zip(places, token_ids, strict=True)):
            naive = {p: row for p, row in naive.items() if p < start + count}
        naive.update({p: (t, np.float32(p + number / 64).item()) for p, t in zip(places, token_ids, strict=True)})
    right = [p for p in range(num_tokens - 1) if p in naive and naive[p][0] == rows.tokens[p]]
    leading = next((i for i in range(num_tokens) if i not in right), num_tokens - 1)
    assert rows.matched() == leading
    found = rows.states(0, num_tokens - 1)[:, 0]
    assert [None if math.isnan(v) else v for v in found.tolist()] == [
        naive[p][1] if p in right else None for p in range(num_tokens - 1)
    ]


def test_a_draft_after_a_rejected_one_leaves_no_trace_even_if_its_token_is_sampled_later() -> None:
    """The state of this draft is of the text with the rejected draft. The answer's own row has not arrived."""
    rows = choice()
    rows.tokens = array("i", [7])
    write(rows, [-1], [102])
    write(rows, [0, 1, 2], [7, 55, 9], value=0.25)
    rows.tokens = array("i", [7, 8])
    assert rows.matched() == 1
    write(rows, [1], [8], value=0.25)
    rows.tokens = array("i", [7, 8, 9, 7])
    assert (rows.matched(), rows.complete()) == (2, False)
    assert math.isnan(rows.states(0, 3)[2, 0])
    write(rows, [2], [9], value=0.5)
    assert rows.complete()
    assert rows.states(0, 3)[:, 0].tolist() == [0.25, 1.25, 2.5]


@pytest.mark.parametrize("with_prompt", [False, True])
def test_a_prompt_without_token_ids_is_not_compared_and_its_answer_is(*, with_prompt: bool) -> None:
    """vLLM names zeros as the ids of a prompt of embeddings."""
    rows = choice(with_prompt=with_prompt)
    rows.prompt = [0, 0, 0]
    first = -3 if with_prompt else -1
    places = list(range(first, 0))
    write(rows, [*places, 0, 1, 2], [*[UNKNOWN_TOKEN] * len(places), 7, 8, 9])
    assert rows.complete()
    assert rows.prompt_last().tolist() == [-1]
    if with_prompt:
        assert rows.prompt_states(0, 3)[:, 0].tolist() == [-3, -2, -1]
    # A row of the answer always has an id.
    write(rows, [1], [UNKNOWN_TOKEN])
    assert not rows.complete()
    assert np.isnan(rows.states(0, 3)[:, 0]).tolist() == [False, True, True]


def test_a_prompt_with_token_ids_is_compared() -> None:
    rows = choice()
    write(rows, [-1, 0, 1, 2], [900, 7, 8, 9])
    assert not rows.complete()
    assert math.isnan(rows.prompt_last()[0])
