"""A thread for work that the event loop must not wait for.

Its items wait in a bounded queue. An item that does not fit into the queue, or whose work fails, is given to `lost`,
which counts it. So no item delays the process that serves, fails it, or fills its memory.
"""

import atexit
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

# Seconds at the end for the items that still wait.
_CLOSE_TIMEOUT = 3.0
# Seconds between two reports of the same failure.
REPORT_INTERVAL = 600.0


class Seldom:
    """Limits the reports of a failure that goes on."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def due(self) -> bool:
        """Return whether `REPORT_INTERVAL` has passed since this last returned True."""
        now = time.monotonic()
        if now - self._last < REPORT_INTERVAL:
            return False
        self._last = now
        return True


class Background(Generic[Item]):
    """Does one thing with each item, in a thread of its own, in order."""

    def __init__(
        self,
        name: str,
        *,
        take: Callable[[Item], None],
        end: Callable[[], None],
        lost: Callable[[Item], object],
        waiting: int,
    ):
        """Start the thread.

        Args:
            name: the name of the work, for the log.
            take: called in the thread with each item.
            end: called in the thread after the last item.
            lost: called with an item that did not fit (in the caller's thread), or for which `take` raised (in this
                thread).
            waiting: the most items that may wait.
        """
        self._name = name
        self._take = take
        self._end = end
        self._lost = lost
        self._failures = Seldom()
        self._closed = False
        # None is the end.
        self._queue: queue.Queue[Item | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._run, name=f"traitwatch-{name}", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def put(self, item: Item) -> None:
        """Hand over an item. This takes microseconds, whatever the thread does."""
        if self._closed:
            self._lost(item)
            return
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._lost(item)

    def close(self) -> None:
        """Work on the items that still wait, and end within a few seconds. The end of the process calls it too."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        deadline = time.monotonic() + _CLOSE_TIMEOUT
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=_CLOSE_TIMEOUT)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            logger.warning("The %s did not end in time; the items that still waited are lost.", self._name)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._take(item)
            except Exception:
                self._lost(item)
                if self._failures.due():
                    logger.exception("The %s lost something; it is counted, and serving goes on.", self._name)
        try:
            self._end()
        except Exception:
            logger.exception("The %s did not end as it should.", self._name)
