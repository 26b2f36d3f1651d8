"""Shows where an API process spends its time, from the stacks that py-spy sampled.

A sample belongs to the innermost frame whose file identifies its owner. Compiled code (pydantic-core, msgspec, the
event loop) has no frame. So its time counts for the function that called it.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

OURS = "Traitwatch"
# The innermost frame that matches one of these patterns decides. The patterns are tried in this order on each file.
_OWNERS = (
    (OURS, re.compile(r"(^|/)traitwatch(_[a-z]+)?/[a-z_/]+\.py$")),
    ("vLLM", re.compile(r"(^|/)vllm/")),
    ("pydantic, JSON", re.compile(r"(^|/)(pydantic(_core)?|json|msgspec)/")),
    ("sockets between processes (zmq)", re.compile(r"(^|/)zmq/")),
    (
        "event loop and HTTP (asyncio, uvloop, uvicorn, starlette, fastapi)",
        re.compile(r"(^|/)(asyncio|uvloop|uvicorn|starlette|fastapi|h11|httptools|anyio|prometheus_fastapi_\w+)/"),
    ),
)
OTHER = "other"
# Threads that wait in these functions are asleep. Sometimes a sample finds them while they wake up.
_WAITING = {
    ("Condition.wait", "threading.py"),
    ("_PollLikeSelector.select", "selectors.py"),
    ("EpollSelector.select", "selectors.py"),
    ("_worker", "concurrent/futures/thread.py"),
}
# A frame of py-spy's raw format: `function (file:line)`, file below site-packages or the standard library.
_FRAME = re.compile(r"^(?P<function>.+) \((?P<file>[^()]+?)(?::\d+)?\)$")


@dataclass(frozen=True)
class Share:
    """Samples with the same owner or function.

    Attributes:
        owner: the owner of the work.
        where: the function, `file:function`; empty for all functions.
        samples: the number of samples.
    """

    owner: str
    where: str
    samples: int


@dataclass(frozen=True)
class Stack:
    """Samples with the same frames.

    Attributes:
        frames: (function, file), outermost first.
        samples: the number of samples.
    """

    frames: tuple[tuple[str, str], ...]
    samples: int


def read_stacks(text: str) -> list[Stack]:
    """Read the output of `py-spy record --format raw --threads`: frames joined by `;`, then a count.

    Stacks of waiting threads are left out.
    """
    stacks = []
    for line in text.splitlines():
        joined, _, count = line.rpartition(" ")
        if not count.isdecimal():
            continue
        frames = (found for part in joined.split(";") if (found := _FRAME.match(part)))
        stack = Stack(tuple((frame["function"], frame["file"]) for frame in frames), int(count))
        if stack.frames and stack.frames[-1] not in _WAITING:
            stacks.append(stack)
    return stacks


def owner(stack: Stack) -> tuple[str, str]:
    """Return the owner of a stack, and the frame that shows it, as `file:function`."""
    for function, file in reversed(stack.frames):
        for name, pattern in _OWNERS:
            if pattern.search(file):
                return name, f"{file}:{function}"
    return OTHER, ""


def shares(stacks: Iterable[Stack]) -> tuple[list[Share], list[Share]]:
    """Return the samples of each owner and of each function of ours, the largest number first."""
    owners: Counter[str] = Counter()
    functions: Counter[tuple[str, str]] = Counter()
    for stack in stacks:
        name, where = owner(stack)
        owners[name] += stack.samples
        if name == OURS:
            functions[name, where] += stack.samples
    return (
        [Share(name, "", samples) for name, samples in owners.most_common()],
        [Share(name, where, samples) for (name, where), samples in functions.most_common()],
    )
