"""Waits for a condition."""

import time
from collections.abc import Callable


def until(
    condition: Callable[[], bool],
    seconds: float = 60.0,
    message: Callable[[], object] = lambda: "the condition did not hold in time",
) -> None:
    """Return when the condition holds.

    Args:
        condition: called again and again.
        seconds: the time limit, which only ends a hang.
        message: returns the message of a failure.

    Raises:
        AssertionError: the condition did not hold in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, message()
        time.sleep(0.02)
