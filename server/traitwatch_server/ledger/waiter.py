"""Waiting for rows. Outputs and rows go different ways to the API process, so a row may come after its token.

Two timers bound the waits. `ROWS_TIMEOUT` is for an answer that waits for its last rows; the caller gives it.
`OVERTAKEN_TIMEOUT` is for an event of a stream that has overtaken its rows. A fault of the worker costs each wait once,
not once for each answer or event. After a wait in vain without any frame, answers wait only `SILENT_TIMEOUT`, until a
frame comes. A choice whose rows lag waits for none of its events, until the rows have caught up.
"""

import asyncio
from collections.abc import Callable

from traitwatch_server.ledger.choice_rows import ChoiceRows

# Seconds that an answer may wait for its last rows. Rows take milliseconds; this is for rows that were lost.
ROWS_TIMEOUT = 1.0
# Seconds that an event waits for the rows that it has overtaken.
OVERTAKEN_TIMEOUT = 0.02
# Seconds that an answer waits for its last rows while no frames come.
SILENT_TIMEOUT = 0.05
# Seconds by which a timer is late where the event loop did not run.
_STALL = 0.1


class FrameWatch:
    """Notes whether the workers send frames at all.

    Attributes:
        count: frames that came so far.
        silent: whether rows were waited for in vain while no frame came, and none has come since.
    """

    def __init__(self) -> None:
        self.count = 0
        self.silent = False

    def came(self) -> None:
        """Note that a frame came."""
        self.count += 1
        self.silent = False

    def waited_in_vain(self, since: int) -> None:
        """Note that rows were waited for in vain since `since` frames had come."""
        self.silent = self.count == since


class Waiter:
    """Waits for the rows of one call."""

    def __init__(self, frames: FrameWatch):
        """Start with no wait.

        Args:
            frames: the frames that come to this process.
        """
        self._frames = frames
        self._arrived = asyncio.Event()
        # Choices that have waited in vain for rows that were due.
        self._lagging: set[ChoiceRows] = set()

    def wake(self) -> None:
        """Have every wait look again: rows of the call came."""
        self._arrived.set()

    async def complete(self, rows: ChoiceRows, timeout: float) -> bool:
        """Wait until a choice is complete; return False where `timeout` seconds were not enough."""
        since = await self._until(rows.complete, min(timeout, SILENT_TIMEOUT) if self._frames.silent else timeout)
        if since is None:
            return True
        self._frames.waited_in_vain(since)
        return False

    async def due(self, rows: ChoiceRows) -> None:
        """Wait a moment for the states that are due; an event of the stream may have overtaken their rows."""
        if rows.due():
            self._lagging.discard(rows)
            return
        if self._frames.silent or rows in self._lagging:
            return
        if await self._until(rows.due, OVERTAKEN_TIMEOUT) is not None:
            self._lagging.add(rows)

    async def _until(self, condition: Callable[[], bool], timeout: float) -> int | None:
        """Wait until a condition of the rows holds, and return None.

        Returns:
            Where `timeout` seconds were not enough, the number of frames when rows of the call last came.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        stood_still = False
        while not condition():
            self._arrived.clear()
            since = self._frames.count
            try:
                await asyncio.wait_for(self._arrived.wait(), deadline - loop.time())
            except TimeoutError:
                if stood_still or loop.time() - deadline < _STALL:
                    return since
                # This process itself stood still and has not read what came meanwhile. Wait anew, once.
                stood_still = True
                deadline = loop.time() + timeout
        return None
