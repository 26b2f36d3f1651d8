"""Long work of the event loop, done in slices, so that nobody else waits for more than some milliseconds.

A function with long work is a generator of steps: it yields between pieces of work of a millisecond or so, and returns
its result. All work of one API process has one `Pacer`. In each turn of the loop, the pacer gives all of them together
`SLICE_SECONDS`. Work that fits into this time is done at once, without a turn of the loop. So a short answer costs what
it costs without a pacer, and many answers that end together hold the loop no longer than one.
"""

import asyncio
import time
from collections.abc import Generator
from typing import TypeVar, cast

Result = TypeVar("Result")
Steps = Generator[None, None, Result]

# Seconds of a turn of the loop that all paced work together may take, the last step aside.
SLICE_SECONDS = 0.004
# Numbers that a step may work on: some two milliseconds, whatever is done with them.
STEP_NUMBERS = 2**16


class Pacer:
    """Shares the turns of one event loop among long work."""

    def __init__(self) -> None:
        self._used = 0.0
        self._renewing = False
        self._turns = asyncio.Lock()

    def begin(self, steps: Steps[None]) -> bool:
        """Do work as far as this turn of the loop has time for it; return whether it is done."""
        return self._slice(steps)[0]

    async def run(self, steps: Steps[Result]) -> Result:
        """Do work to its end, and let the loop serve others as often as needed. Work that waits keeps its order."""
        done, result = self._slice(steps)
        while not done:
            async with self._turns:
                await asyncio.sleep(0)
                done, result = self._slice(steps)
        return cast(Result, result)

    def _slice(self, steps: Steps[Result]) -> tuple[bool, Result | None]:
        """Do steps while this turn has time for them. Return whether the work is done, and then its result."""
        left = SLICE_SECONDS - self._used
        if left <= 0:
            return False, None
        if not self._renewing:
            self._renewing = True
            asyncio.get_running_loop().call_soon(self._renew)
        started = time.perf_counter()
        try:
            while time.perf_counter() - started < left:
                next(steps)
        except StopIteration as ended:
            return True, ended.value
        finally:
            self._used += time.perf_counter() - started
        return False, None

    def _renew(self) -> None:
        self._used = 0.0
        self._renewing = False


def at_once(steps: Steps[Result]) -> Result:
    """Do work to its end in one go."""
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            result: Result = ended.value
            return result
