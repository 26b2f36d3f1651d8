"""A vLLM worker sums the states of the requested rows, whatever the schedule of the engine."""

import numpy as np
import pytest
import torch

from traitwatch.vllm_private.batch import BatchLayout
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.reading.sums import StateSums
from traitwatch_builder.reading.vllm_reader import join

LAYERS, HIDDEN = [0, 1, 2], 4
UNREAD = torch.empty(0)
# The state of each layer at each of 12 positions of a text.
STATES = np.random.default_rng(0).standard_normal((3, 12, HIDDEN)).astype(np.float32)


class Engine:
    """Runs passes as vLLM does: a pass has rows of several requests, each from some position on."""

    def __init__(self) -> None:
        self.sums = StateSums(LAYERS, HIDDEN, max_tokens=32, device="cpu")

    def run(self, *rows: tuple[str, int, int]) -> None:
        """Compute positions `begin` to `end - 1` of each request, with the states of `STATES`, and 7 beyond them."""
        long = np.concatenate([STATES, np.full((3, 20, HIDDEN), 7, dtype=np.float32)], axis=1)
        for place, layer in enumerate(LAYERS):
            states = np.concatenate([long[place, begin:end] for _, begin, end in rows])
            self.sums.write(layer, torch.from_numpy(states) - 1, torch.ones(len(states), HIDDEN))
        lengths = [end - begin for _, begin, end in rows]
        self.sums.collect(
            BatchLayout(
                [name for name, _, _ in rows],
                np.cumsum([0, *lengths], dtype=np.int32),
                np.array([begin for _, begin, _ in rows], dtype=np.int32),
                UNREAD,
                UNREAD,
            )
        )


def assert_summed(taken: dict, cuts: list[int], length: int = 12) -> None:  # type: ignore[type-arg]
    assert taken["missing"] is False
    sums = np.frombuffer(taken["sums"], np.float32).reshape(len(cuts), 3, HIDDEN)
    for cut, got in zip(cuts, sums, strict=True):
        np.testing.assert_allclose(got, STATES[:, cut:length].sum(1), atol=1e-5)
    np.testing.assert_allclose(
        np.frombuffer(taken["last"], np.float32).reshape(3, HIDDEN), STATES[:, length - 1], atol=1e-6
    )


@pytest.mark.parametrize("cuts", [[0], [5], [11], [0, 4, 11]])
@pytest.mark.parametrize("chunks", [[12], [1, 11], [5, 1, 6], [3, 3, 3, 3]])
def test_sums_do_not_depend_on_how_a_prompt_is_chunked(cuts: list[int], chunks: list[int]) -> None:
    engine = Engine()
    engine.sums.ask("r", 1, cuts, 12)
    begin = 0
    for chunk in chunks:
        engine.run(("other", 0, 2), ("r", begin, begin + chunk))
        begin += chunk
    assert_summed(engine.sums.take(1), cuts)


def test_tokens_that_are_sampled_after_the_text_never_count() -> None:
    engine = Engine()
    engine.sums.ask("r", 1, [2], 12)
    engine.run(("r", 0, 12))
    engine.run(("r", 12, 13))
    assert_summed(engine.sums.take(1), [2])
    engine.sums.ask("s", 2, [2], 12)
    engine.run(("s", 0, 15))
    assert_summed(engine.sums.take(2), [2])


def test_requests_of_a_batch_are_not_mixed_up() -> None:
    engine = Engine()
    engine.sums.ask("a", 1, [1], 9)
    engine.sums.ask("b", 2, [4], 12)
    engine.run(("a", 0, 5), ("b", 3, 8))
    engine.run(("b", 8, 12), ("unasked", 0, 3), ("a", 5, 9))
    assert_summed(engine.sums.take(2), [4])
    assert_summed(engine.sums.take(1), [1], length=9)


def test_a_preempted_request_is_not_counted_twice() -> None:
    engine = Engine()
    engine.sums.ask("r", 1, [2], 12)
    engine.run(("r", 0, 7))
    engine.sums.ask("r", 1, [2], 12)
    engine.run(("r", 4, 9))
    engine.run(("r", 9, 12))
    assert_summed(engine.sums.take(1), [2])


def test_a_cached_beginning_before_the_first_cut_is_no_loss() -> None:
    engine = Engine()
    engine.sums.ask("r", 1, [4], 12)
    engine.run(("r", 4, 12))
    taken = engine.sums.take(1)
    assert taken["first"] == 4
    assert_summed(taken, [4])


@pytest.mark.parametrize("passes", [[(5, 12)], [(0, 3), (6, 12)], [(0, 11)], []])
def test_a_state_that_was_not_computed_is_reported_as_missing(passes: list[tuple[int, int]]) -> None:
    engine = Engine()
    engine.sums.ask("r", 1, [4], 12)
    for begin, end in passes:
        engine.run(("r", begin, end))
    taken = engine.sums.take(1)
    assert taken["missing"] is True
    assert taken["first"] == (passes[0][0] if passes else None)


def test_projections_are_of_the_counted_states_in_order() -> None:
    engine = Engine()
    directions = np.random.default_rng(1).standard_normal((3, HIDDEN)).astype(np.float32)
    engine.sums.project_on(torch.from_numpy(directions))
    engine.sums.ask("r", 1, [3, 8], 12)
    for begin, end in ((0, 5), (5, 6), (6, 12)):
        engine.run(("r", begin, end))
    got = np.frombuffer(engine.sums.take(1)["projections"], np.float32).reshape(3, 9)
    np.testing.assert_allclose(got, np.einsum("lth,lh->lt", STATES[:, 3:], directions), atol=1e-5)
    engine.sums.project_on(None)
    engine.sums.ask("s", 2, [3], 12)
    engine.run(("s", 0, 12))
    assert "projections" not in engine.sums.take(2)


def test_the_residual_is_added_in_float32() -> None:
    sums = StateSums([0], 1, max_tokens=1, device="cpu")
    sums.ask("r", 1, [0], 1)
    sums.write(0, torch.tensor([[256.0]], dtype=torch.bfloat16), torch.tensor([[1.0]], dtype=torch.bfloat16))
    sums.collect(BatchLayout(["r"], np.array([0, 1], dtype=np.int32), np.array([0], dtype=np.int32), UNREAD, UNREAD))
    assert np.frombuffer(sums.take(1)["sums"], np.float32).tolist() == [257.0], "bfloat16 would give 256"


# --- pipeline stages


def stage(layers: list[int], *, missing: bool = False) -> tuple[list[int], list[dict[str, object]]]:
    if missing:
        return layers, [{"missing": True, "first": 9}]
    values = {
        "sums": STATES[layers][:, :2].transpose(1, 0, 2),
        "last": STATES[layers, 5],
        "projections": STATES[layers, :6, 0],
    }
    return layers, [{"missing": False, "first": 0, **{k: v.tobytes() for k, v in values.items()}}]


def test_stages_are_joined_in_the_order_of_their_layers() -> None:
    parts = join([stage([2]), None, stage([0, 1]), None], {8: 2}, (3, HIDDEN))
    np.testing.assert_array_equal(parts[8].sums, STATES[:, :2].transpose(1, 0, 2))
    np.testing.assert_array_equal(parts[8].last, STATES[:, 5])
    np.testing.assert_array_equal(parts[8].projections, STATES[:, :6, 0])


def test_states_that_one_stage_misses_are_missing() -> None:
    assert join([stage([0, 1]), stage([2], missing=True)], {8: 2}, (3, HIDDEN)) == {}


@pytest.mark.parametrize("layers", [[[0, 1]], [[0, 1], [1, 2]], []])
def test_layers_that_are_held_by_none_or_by_two_are_an_error(layers: list[list[int]]) -> None:
    with pytest.raises(PipelineError, match="hold layers"):
        join([stage(held) for held in layers], {8: 2}, (3, HIDDEN))
