"""Logs failures that may come with every pass or message: the first at once, the later ones at most once a minute."""

import logging
import time
from collections.abc import Callable

# Seconds between two records of the same kind of failure.
INTERVAL = 60.0


class FailureLog:
    """Logs one kind of failure, with the number of failures since the last record. One thread uses it."""

    def __init__(self, logger: logging.Logger, message: str, *, clock: Callable[[], float] = time.monotonic):
        """Start with no failure.

        Args:
            logger: takes the records.
            message: says what has failed, in whole sentences.
            clock: returns seconds.
        """
        self._logger = logger
        self._message = message
        self._clock = clock
        self._last: float | None = None
        self._unlogged = 0

    def failed(self, error: BaseException | None = None) -> None:
        """Note a failure; log it with its traceback, unless the last record is younger than `INTERVAL`.

        Args:
            error: the exception; None where a record needs no traceback.
        """
        self._unlogged += 1
        now = self._clock()
        if self._last is not None and now - self._last < INTERVAL:
            return
        since = "" if self._last is None else f" ({self._unlogged} times in the last {now - self._last:.0f} s)"
        self._logger.error("%s%s", self._message, since, exc_info=error)
        self._last, self._unlogged = now, 0
