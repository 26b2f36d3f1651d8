"""What texts have in common: a plan by which every shared beginning is read once.

Texts with a common beginning form a tree. A node is a stretch of tokens that follows its parent's; a text is the path
from a root to one node, and its sum of states is the sum over that path. A stretch becomes a node of its own where it
is long enough and spares more tokens than an extra pass of the model is worth; identical texts are one node.

The plan is the same for every engine. What an engine hands back of a node is a `Part`: sums from some of its positions
to its end. `reading` adds the parts of a path up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from traitwatch.vectors import Float32Array
from traitwatch_builder.reading.states import Reading, Span

MIN_LENGTH = 16
"""Tokens below which a common beginning is not read apart."""

MIN_SAVED = 128
"""Tokens that reading it apart must spare: what an extra small pass costs on a CPU, and less than that on a GPU."""


@dataclass
class Node:
    """A stretch of tokens that is read once.

    Attributes:
        ids: the tokens of the text up to the stretch's end.
        begin: position of its first own token; the ones before are its parent's.
        parent: number of the node that it follows; None for a root.
        cuts: positions within it, ascending, from which states are summed to its end; empty where none is counted.
        spans: indices of the spans that end with it.
        children: numbers of the nodes that follow it.
    """

    ids: list[int]
    begin: int
    parent: int | None
    cuts: list[int] = field(default_factory=list)
    spans: list[int] = field(default_factory=list)
    children: list[int] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Part:
    """What the states of a node say, at every layer.

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
        spans: what is to be read.
        min_length: tokens below which a common beginning is no node.
        min_saved: tokens that a common beginning must spare to be one.
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
        span: the text, which ends with the path's last node.
        path: the nodes from the root to that one, each with its part; nodes before the span's start may be left out.
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
    """The parts of the nodes from a root to where a walk in plan order stands; what lies behind it is forgotten."""

    def __init__(self, spans: Sequence[Span], nodes: Sequence[Node]):
        self._spans = spans
        self._nodes = nodes
        self._parts: dict[int, Part] = {}
        self._waiting = [len(node.children) for node in nodes]

    def add(self, number: int, part: Part | None) -> list[tuple[int, Reading]]:
        """Take the part of a node, all of whose forefathers were added; return the readings of spans that end with it.

        Args:
            number: the node.
            part: its part; None where it has no cuts.
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
        """Drop a node whose children have all been added, and then the forefathers that waited only for it."""
        at: int | None = number
        while at is not None and self._waiting[at] == 0:
            self._parts.pop(at, None)
            at = self._nodes[at].parent
            if at is not None:
                self._waiting[at] -= 1


@dataclass
class _Tree:
    """A stretch of text number `text` from `begin` to `end`, and what follows it."""

    text: int
    begin: int
    end: int
    children: list["_Tree"]


class _Grower:
    """Grows the trees of sorted texts; `shared[i]` is what texts i - 1 and i have in common."""

    def __init__(self, texts: Sequence[tuple[int, ...]], shared: Sequence[int], min_length: int, min_saved: int):
        self._texts = texts
        self._shared = shared
        self._min_length = min_length
        self._min_saved = min_saved

    def grow(self, low: int, high: int, begin: int) -> list[_Tree]:
        """Return the trees of texts low to high - 1, which have their first `begin` tokens behind them."""
        trees: list[_Tree] = []
        # Ranges still to be divided, the next one last. Texts that differ one after the other divide theirs one by one:
        # a loop, since recursion would go as deep as there are texts.
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
                # Its children's own nodes leave too little to spare: they go back to where it would have begun.
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
    """Return how many tokens two texts have in common at their beginning."""
    length = min(len(one), len(other))
    return next((i for i in range(length) if one[i] != other[i]), length)
