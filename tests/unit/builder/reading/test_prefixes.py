"""Every shared beginning is read once, and no reading depends on how texts were cut into nodes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traitwatch_builder.reading.prefixes import Collector, Node, Part, plan
from traitwatch_builder.reading.states import Reading, Span

LAYERS, HIDDEN = 2, 3


def tokens_read(nodes: list[Node]) -> int:
    return sum(len(node.ids) - node.begin for node in nodes)


def state(ids: list[int], position: int) -> np.ndarray:
    """Return a state that depends on all tokens up to its position, as the state of a causal model does."""
    seen = np.arange(1, position + 2) * np.array(ids[: position + 1])
    return np.full((LAYERS, HIDDEN), seen.sum() + 0.5 * position) + np.arange(LAYERS)[:, None]


def part(node: Node) -> Part | None:
    if not node.cuts:
        return None
    states = {p: state(node.ids, p) for p in range(node.begin, len(node.ids))}
    sums = [np.sum([states[p] for p in range(cut, len(node.ids))], axis=0) for cut in node.cuts]
    projections = np.stack([states[p][:, 0] for p in range(node.cuts[0], len(node.ids))], axis=1)
    return Part(np.array(sums, dtype=np.float32), states[len(node.ids) - 1].astype(np.float32), projections)


def collect(spans: list[Span], nodes: list[Node]) -> dict[int, Reading]:
    collector = Collector(spans, nodes)
    found = [pair for number, node in enumerate(nodes) for pair in collector.add(number, part(node))]
    assert sorted(i for i, _ in found) == list(range(len(spans)))
    assert not collector._parts, "the collector holds parts that no span needs"
    return dict(found)


def test_a_long_opening_is_read_once() -> None:
    opening = list(range(100))
    spans = [Span([*opening, 200 + i, 300], 100) for i in range(5)]
    nodes = plan(spans)
    assert tokens_read(nodes) == 100 + 5 * 2
    assert nodes[0].ids == opening
    assert nodes[0].cuts == [], "no span counts the states of the opening"
    assert [node.begin for node in nodes[1:]] == [100] * 5


def test_openings_nest() -> None:
    spans = [Span([*range(100), *[q] * 50, 900 + a], 150) for q in (201, 202) for a in range(10)]
    nodes = plan(spans, min_length=16, min_saved=64)
    assert tokens_read(nodes) == 100 + 2 * 50 + 20
    inner = [node for node in nodes if node.children]
    assert [(node.begin, len(node.ids)) for node in inner] == [(0, 100), (100, 150), (100, 150)]


@pytest.mark.parametrize(("shared", "texts"), [(15, 50), (40, 3)])
def test_an_opening_that_spares_too_little_is_not_read_apart(shared: int, texts: int) -> None:
    spans = [Span([*range(shared), 200 + i], shared) for i in range(texts)]
    assert all(node.begin == 0 and not node.children for node in plan(spans, min_length=16, min_saved=128))


def test_tokens_that_longer_openings_spare_do_not_count_for_a_shorter_one() -> None:
    """Two long openings that share 20 tokens: reading those apart spares only 20."""
    spans = [Span([*range(20), *[q] * 100, 900 + a], 120) for q in (201, 202) for a in range(10)]
    nodes = plan(spans, min_length=16, min_saved=64)
    assert [(node.begin, len(node.ids)) for node in nodes if node.children] == [(0, 120), (0, 120)]


def test_texts_that_differ_one_after_the_other_still_share_their_opening() -> None:
    spans = [Span([*range(200), *[7] * i, 8], 200) for i in range(40)]
    assert tokens_read(plan(spans)) < 200 + sum(i + 1 for i in range(40)) + 1


def test_identical_texts_are_read_once_wherever_they_start() -> None:
    spans = [Span([1, 2, 3, 4], 0), Span([1, 2, 3, 4], 2), Span([1, 2, 3, 4], 2)]
    (node,) = plan(spans)
    assert node.cuts == [0, 2]
    assert node.spans == [0, 1, 2]


def test_a_text_that_others_begin_with_is_their_opening() -> None:
    prompt = list(range(50))
    spans = [Span(prompt, 0), *(Span([*prompt, 90 + i], 50) for i in range(9))]
    nodes = plan(spans)
    assert tokens_read(nodes) == 50 + 9
    assert nodes[0].spans == [0]


@given(
    st.lists(st.tuples(st.lists(st.integers(1, 2), min_size=1, max_size=12), st.integers(0, 11)), min_size=1),
    st.integers(1, 4),
    st.integers(1, 12),
)
def test_readings_do_not_depend_on_the_nodes(
    texts: list[tuple[list[int], int]], min_length: int, min_saved: int
) -> None:
    spans = [Span(ids, start % len(ids)) for ids, start in texts]
    nodes = plan(spans, min_length, min_saved)
    for number, node in enumerate(nodes):
        assert node.begin < len(node.ids)
        if node.parent is not None:
            assert node.parent < number
            assert nodes[node.parent].ids == node.ids[: node.begin]
    assert tokens_read(nodes) <= sum(len(ids) for ids in {tuple(span.ids) for span in spans})
    for i, got in collect(spans, nodes).items():
        ids, start = spans[i].ids, spans[i].start
        expected = [state(ids, position) for position in range(start, len(ids))]
        np.testing.assert_allclose(got.mean, np.mean(expected, axis=0), rtol=1e-6)
        np.testing.assert_allclose(got.last, expected[-1], rtol=1e-6)
        np.testing.assert_allclose(got.projections, np.stack(expected)[:, :, 0].T, rtol=1e-6)
