"""Plans a run before it starts: which servers are compared, under which loads, and in which order."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tests.benchmarks.serving.load import Load

Mode = Literal["eager", "compiled"]

PLAIN = "plain vLLM"
CONTROL = "plain vLLM again"
HIDDEN_STATES = "hidden states"
# The goals of the project are stated for this load.
GOAL_TRAITS = 6
MORE_TRAITS = 64
GOAL_CONCURRENCY = 32

# Measured on two cores of a Xeon with AMX: the seconds of a forward pass, alone and for each further stream, and the
# seconds that a server takes to start. They are only used to estimate the time of a run.
_PASS_S, _PASS_S_PER_STREAM = 0.035, 0.0018
_START_S: dict[Mode, float] = {"eager": 25.0, "compiled": 95.0}
_PAUSE_S = 3.0


@dataclass(frozen=True)
class Comparison:
    """Two servers that take turns.

    Attributes:
        base: the name of the side that ratios are divided by.
        side: the name of the measured side.
        loads: the loads of both sides.
    """

    base: str
    side: str
    loads: tuple[Load, ...]


def traits_side(count: int) -> str:
    """Return the name of the side with `count` loaded traits."""
    return f"{count} trait{'' if count == 1 else 's'}"


def scores(side: str) -> bool:
    """Return whether the answers of a side are scored."""
    return side not in (PLAIN, CONTROL, HIDDEN_STATES, traits_side(0))


def plan(sides: Sequence[str], loads: Sequence[Load]) -> list[Comparison]:
    """Return the comparisons of one mode.

    Each side is compared with plain vLLM. If both are asked for, `MORE_TRAITS` is also compared with `GOAL_TRAITS`.
    This comparison, the control and the hidden states get only the load of the highest concurrency, where the goals are
    stated.
    """
    highest = (max(loads, key=lambda load: load.concurrency),)
    comparisons = [
        Comparison(PLAIN, side, highest if side in (HIDDEN_STATES, CONTROL) else tuple(loads)) for side in sides
    ]
    fewer, more = traits_side(GOAL_TRAITS), traits_side(MORE_TRAITS)
    if fewer in sides and more in sides:
        comparisons.append(Comparison(fewer, more, highest))
    return comparisons


def order(comparison: Comparison, pair: int, load_number: int = 0) -> tuple[str, str]:
    """Return the order of the sides: A B, B A, A B, ... over the pairs, and over the loads of a pair."""
    both = comparison.base, comparison.side
    return both if (pair + load_number) % 2 == 0 else (both[1], both[0])


def warm_up(load: Load) -> Load:
    """Return a short load of the same concurrency. Its measurements are not used."""
    return replace(load, prompts=load.concurrency, tokens=min(16, load.tokens))


def load_seconds(load: Load) -> float:
    """Estimate the time of a load with the pause before it."""
    passes = load.prompts * load.tokens / load.concurrency
    return _PAUSE_S + passes * (_PASS_S + _PASS_S_PER_STREAM * load.concurrency)


def start_seconds(mode: Mode) -> float:
    """Estimate the time in which a server starts."""
    return _START_S[mode]


def run_seconds(modes: Sequence[Mode], comparisons: Sequence[Comparison], pairs: int) -> float:
    """Estimate the seconds of a whole run. For each pair, both servers start, warm up and get each load."""
    return sum(
        2 * pairs * (start_seconds(mode) + sum(load_seconds(load) for load in [warm_up(c.loads[-1]), *c.loads]))
        for mode in modes
        for c in comparisons
    )
