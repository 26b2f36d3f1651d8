"""Lets a server that is told to end finish its answers.

vLLM's own way, `--shutdown-timeout`, waits in the engine alone, and then closes what the last tokens and their
projections travel through, whoever still reads. So the waiting is done here, while everything is up: no request is
taken any more, and once the last answer is with its client, scores and all, the rest is vLLM's to end. What has not
finished in time is aborted, which ends its response in order too.
"""

import asyncio
import logging
import math
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

from starlette.types import ASGIApp, Receive, Scope, Send

from traitwatch_server.responses.refusals import refusal, request_path

# Seconds in which the responses of aborted generations end.
_ABORT_TIMEOUT = 3.0
# Seconds in which an engine that has no work ends; some three on two idle cores.
ENGINE_TIMEOUT = 10.0
# Seconds that all of it may take beyond those that were asked for.
MARGIN = math.ceil(_ABORT_TIMEOUT + ENGINE_TIMEOUT)
# What an ending server tells whoever it refuses.
_ENDING = {"Connection": "close", "Retry-After": "5"}

logger = logging.getLogger(__name__)


class Draining:
    """What an API process is at work on, and whether it takes more.

    Attributes:
        begun: whether the server has been told to end.

    Args of the constructor:
        seconds: that answers have to finish.
    """

    def __init__(self, seconds: float):
        self.begun = False
        self._seconds = seconds
        self._requests = 0
        self._generations: Counter[str] = Counter()
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def request(self) -> Iterator[None]:
        """While one HTTP request is handled."""
        self._requests += 1
        self._note()
        try:
            yield
        finally:
            self._requests -= 1
            self._note()

    @contextmanager
    def generation(self, request_id: str) -> Iterator[None]:
        """While the engine generates for one of its requests; a background response has no HTTP request then."""
        self._generations[request_id] += 1
        self._note()
        try:
            yield
        finally:
            self._generations[request_id] -= 1
            if not self._generations[request_id]:
                del self._generations[request_id]
            self._note()

    async def drain(self, abort: Callable[[list[str]], Awaitable[None]]) -> None:
        """Take no more requests; wait for the end of those that are there, or abort them when their time is up.

        A Ctrl-C meanwhile aborts them at once.

        Args:
            abort: ends generations, by their ids in the engine.
        """
        self.begun = True
        if self._requests:
            logger.info("Ending: %d requests have %g s to finish; Ctrl-C ends them now.", self._requests, self._seconds)
        hurried = asyncio.Event()
        loop = asyncio.get_running_loop()
        # Only that: vLLM's launcher sends SIGTERM to its API processes after a Ctrl-C that has reached them too.
        loop.add_signal_handler(signal.SIGINT, hurried.set)
        waits = [asyncio.create_task(event.wait()) for event in (self._idle, hurried)]
        await asyncio.wait(waits, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if self._idle.is_set():
            return
        logger.warning("Ending: %d generations have not finished, and are aborted.", len(self._generations))
        await abort(list(self._generations))
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), _ABORT_TIMEOUT)

    def _note(self) -> None:
        if self._requests or self._generations:
            self._idle.clear()
        else:
            self._idle.set()


class DrainingMiddleware:
    """Knows which requests are handled; answers 503 to new ones, and to `/health`, when the server is ending.

    Args of the constructor:
        app: the application.
        draining: returns what is drained; called a request, since it is not there yet when the app is built.
    """

    def __init__(self, app: ASGIApp, draining: Callable[[], Draining]):
        self._app = app
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        draining = self._draining()
        if draining.begun and (scope["method"] == "POST" or scope["path"].endswith("/health")):
            refused = refusal(503, "The server is ending; ask another.", path=request_path(scope), headers=_ENDING)
            await refused(scope, receive, send)
            return
        with draining.request():
            await self._app(scope, receive, send)
