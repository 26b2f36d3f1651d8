"""Lets a server that gets SIGTERM or Ctrl-C finish its answers.

vLLM's own `--shutdown-timeout` waits in the engine alone. Then vLLM closes the connections through which the last
tokens and projections come, even where a client still reads. So this module waits while everything is up. The server
refuses new requests. When the last client has its answer with all scores, vLLM ends the rest. A generation that has not
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

from traitwatch_server.responses.paths import route_path
from traitwatch_server.responses.refusals import refusal

# Seconds in which the responses of aborted generations end.
_ABORT_TIMEOUT = 3.0
# Seconds in which an engine without work ends; it takes some three on two idle cores.
ENGINE_TIMEOUT = 10.0
# Seconds that the whole end may take beyond `--drain-seconds`.
MARGIN = math.ceil(_ABORT_TIMEOUT + ENGINE_TIMEOUT)
# vLLM's paths by which a load balancer asks whether the server takes requests.
_HEALTH = ("/health", "/ping")
# Headers of a refusal by a starting server.
_STARTING = {"Retry-After": "5"}
# Headers of a refusal by an ending server.
_ENDING = {"Connection": "close", "Retry-After": "5"}

logger = logging.getLogger(__name__)


class Draining:
    """The running requests and generations of an API process, and whether the process takes more.

    Attributes:
        begun: whether the end of the server has begun.
    """

    def __init__(self, seconds: float):
        """Begin with no requests.

        Args:
            seconds: the time that running answers have to finish.
        """
        self.begun = False
        self._seconds = seconds
        self._requests = 0
        self._generations: Counter[str] = Counter()
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count one HTTP request as running while the context lasts."""
        self._requests += 1
        self._note()
        try:
            yield
        finally:
            self._requests -= 1
            self._note()

    @contextmanager
    def generation(self, request_id: str) -> Iterator[None]:
        """Count one generation as running while the context lasts. A background response has no HTTP request then."""
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
        """Refuse new requests; wait for the end of the running ones, and abort those whose time is up.

        A Ctrl-C meanwhile aborts the running ones at once.

        Args:
            abort: ends generations, by their ids in the engine.
        """
        self.begun = True
        if self._requests:
            logger.info("Ending: %d requests have %g s to finish; Ctrl-C ends them now.", self._requests, self._seconds)
        hurried = asyncio.Event()
        loop = asyncio.get_running_loop()
        # SIGINT alone: vLLM's launcher sends SIGTERM to its API processes after a Ctrl-C that has reached them too.
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
    """Counts the running requests; answers 503 while the server ends, to new requests, `/health` and `/ping`.

    Before the server is up, it answers 503 to every request: nothing behind it can answer yet. Of our middleware, only
    the guard stands before it.
    """

    def __init__(self, app: ASGIApp, draining: Callable[[], Draining | None]):
        """Wrap an application.

        Args:
            app: the application.
            draining: returns the state of this API process; None before the process is up. Called for each request.
        """
        self._app = app
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        draining = self._draining()
        path = route_path(scope)
        if draining is None:
            refused = refusal(503, "The server is starting; ask again later.", path=path, headers=_STARTING)
            await refused(scope, receive, send)
            return
        if draining.begun and (scope["method"] == "POST" or path in _HEALTH):
            refused = refusal(503, "The server is ending; ask another.", path=path, headers=_ENDING)
            await refused(scope, receive, send)
            return
        with draining.request():
            await self._app(scope, receive, send)
