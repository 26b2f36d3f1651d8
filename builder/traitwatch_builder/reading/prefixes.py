"""A plan by which every beginning that texts share is read once.

Texts with a common beginning form a tree. A node is a stretch of tokens that follows the stretch of its parent. A text
is the path from a root to one node, and the sum of its states is the sum over that path. A stretch becomes a node of
its own where it is long enough and spares more tokens than an extra pass of the model costs. Identical texts are one
node.

The plan is the same for every engine. For each node an engine returns a `Part`: sums of states from some positions of
the node to its end. `reading` adds up the parts of a path.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from traitwatch.vectors import Float32Array
from traitwatch_builder.reading.states import Reading, Span

MIN_LENGTH = 16
"""A common beginning of fewer tokens is not a node."""

MIN_SAVED = 128
"""Tokens that a node must spare. An extra small pass costs as much as these on a CPU, and less on a GPU."""


@dataclass
class Node:
    """A stretch of tokens that is read once.

    Attributes:
        ids: the tokens of the text up to the stretch's end.
        begin: position of the first token of the stretch; the tokens before it belong to the parent and its ancestors.
        parent: number of the node that this one follows; None for a root.
        cuts: positions within the stretch, ascending, from which states are summed to its end; empty where no state
            is counted.
        spans: indices of the spans that end with this node.
        children: numbers of the nodes that follow this one.
    """

    ids: list[int]
    begin: int
    parent: int | None
    cuts: list[int] = field(default_factory=list)
    spans: list[int] = field(default_factory=list)
    children: list[int] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Part:
    """Sums of the states of a node, at every layer.

    Attributes:
        sums: `[num_cuts, num_layers + 1, hidden_size]`, float32: from each cut to the node's end.
        last: `[num_layers + 1, hidden_size]`, float32: the state at the node's end.
        projections: `[num_layers + 1, tokens from the first cut on]`, float32; None where no directions were given.
    """

    sums: Float32Array
    last: Float32Array
    projections: Float32Array | None = None


def plan(spans: Sequence[Span], min_length: int = MIN_LENGTH, min_saved: int = MIN_SAVED) -> list[Node]:
    """Return the nodes to read, every parent before its children and every subtree in one run.

    Args:
        spans: the spans to read.
        min_length: the least tokens of a node that several texts share.
        min_saved: the least tokens that such a node must spare.
    """
    members: dict[tuple[int, ...], list[int]] = {}
    for i, span in enumerate(spans):
        members.setdefault(tuple(span.ids), []).append(i)
    texts = sorted(members)
    shared = [0, *(_common(one, other) for one, other in pairwise(texts)), 0]
    nodes: list[Node] = []
    for tree in _Grower(texts, shared, min_length, min_saved).grow(0, len(texts), 0):
        _number(tree, texts, None, nodes)
    for node in nodes:
        node.spans = members.get(tuple(node.ids), [])
    for i, node in enumerate(nodes):
        for start in {spans[member].start for member in node.spans}:
            _cut(nodes, i, start)
    return nodes


def reading(span: Span, path: Sequence[tuple[Node, Part]]) -> Reading:
    """Add up the parts of a text.

    Args:
        span: the text, which ends with the last node of the path.
        path: the nodes from the root to that node, each with its part; nodes before the span's start may be left out.
    """
    total = np.zeros(path[-1][1].sums.shape[1:], dtype=np.float64)
    projections: list[Float32Array] = []
    for node, part in path:
        if len(node.ids) <= span.start:
            continue
        cut = max(span.start, node.begin)
        total += part.sums[node.cuts.index(cut)]
        if part.projections is not None:
            projections.append(part.projections[:, cut - node.cuts[0] :])
    mean: Float32Array = (total / (len(span.ids) - span.start)).astype(np.float32)
    return Reading(mean, path[-1][1].last, np.concatenate(projections, axis=1) if projections else None)


class Collector:
    """Collects the parts of nodes in plan order, and forgets each part when no node to come needs it."""

    def __init__(self, spans: Sequence[Span], nodes: Sequence[Node]):
        """Start without parts.

        Args:
            spans: the spans to read.
            nodes: the plan of these spans.
        """
        self._spans = spans
        self._nodes = nodes
        self._parts: dict[int, Part] = {}
        self._waiting = [len(node.children) for node in nodes]

    def add(self, number: int, part: Part | None) -> list[tuple[int, Reading]]:
        """Take the part of a node, and return the readings of the spans that end with this node.

        Args:
            number: number of the node, whose ancestors were all added before.
            part: the part of the node; None where the node has no cuts.
        """
        node = self._nodes[number]
        if part is not None:
            self._parts[number] = part
        path: list[tuple[Node, Part]] = []
        at: int | None = number
        while node.spans and at is not None:
            if at in self._parts:
                path.insert(0, (self._nodes[at], self._parts[at]))
            at = self._nodes[at].parent
        readings = [(i, reading(self._spans[i], path)) for i in node.spans]
        self._forget(number)
        return readings

    def _forget(self, number: int) -> None:
        """Drop a node whose children have all been added, and then the ancestors that waited only for this node."""
        at: int | None = number
        while at is not None and self._waiting[at] == 0:
            self._parts.pop(at, None)
            at = self._nodes[at].parent
            if at is not None:
                self._waiting[at] -= 1


@dataclass
class _Tree:
    """A stretch of text number `text` from `begin` to `end`, with the stretches that follow it."""

    text: int
    begin: int
    end: int
    children: list["_Tree"]


class _Grower:
    """Grows the trees of sorted texts; `shared[i]` is the number of tokens that texts i - 1 and i have in common."""

    def __init__(self, texts: Sequence[tuple[int, ...]], shared: Sequence[int], min_length: int, min_saved: int):
        self._texts = texts
        self._shared = shared
        self._min_length = min_length
        self._min_saved = min_saved

    def grow(self, low: int, high: int, begin: int) -> list[_Tree]:
        """Return the trees of texts low to high - 1, whose first `begin` tokens belong to nodes already."""
        trees: list[_Tree] = []
        # Ranges still to be divided, the next one last. Where each text differs from the next, a range is divided text
        # by text; this is a loop, since recursion would go as deep as there are texts.
        stack = [(low, high)] if low < high else []
        while stack:
            low, high = stack.pop()
            if high - low == 1:
                trees.append(_Tree(low, begin, len(self._texts[low]), []))
                continue
            common = min(self._shared[low + 1 : high])
            if common - begin >= self._min_length and (high - low - 1) * (common - begin) >= self._min_saved:
                node = _Tree(low, begin, common, [])
                first = low + 1 if len(self._texts[low]) == common else low
                node.children = self.grow(first, high, common)
                ends_here = first != low
                if (len(node.children) - 1 + ends_here) * (common - begin) >= self._min_saved:
                    trees.append(node)
                    continue
                # With nodes for its children the stretch would spare too little: the children begin where it began.
                for child in node.children:
                    child.begin = begin
                if ends_here:
                    trees.append(_Tree(low, begin, common, []))
                trees.extend(node.children)
                continue
            edges = [low, *(i for i in range(low + 1, high) if self._shared[i] == common), high]
            stack.extend(reversed(list(pairwise(edges))))
        return trees


def _number(tree: _Tree, texts: Sequence[tuple[int, ...]], parent: int | None, nodes: list[Node]) -> None:
    number = len(nodes)
    nodes.append(Node(list(texts[tree.text][: tree.end]), tree.begin, parent))
    if parent is not None:
        nodes[parent].children.append(number)
    for child in tree.children:
        _number(child, texts, number, nodes)


def _cut(nodes: Sequence[Node], number: int, start: int) -> None:
    """Have the nodes of a text sum its states from `start` on."""
    at: int | None = number
    while at is not None and len(nodes[at].ids) > start:
        cut = max(start, nodes[at].begin)
        if cut not in nodes[at].cuts:
            nodes[at].cuts = sorted([*nodes[at].cuts, cut])
        at = nodes[at].parent


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens the common beginning of two texts has."""
    length = min(len(one), len(other))
    return next((i for i in range(length) if one[i] != other[i]), length)
