"""Ends a server that is told to end before it is up.

vLLM raises KeyboardInterrupt then. But the context in which it waits for its engines takes that for an end of the wait,
and the server would sit there for engines that nobody answers, for up to ten minutes. And of a Ctrl-C, asyncio would at
first only make a note.
"""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import vllm.v1.engine.utils

logger = logging.getLogger(__name__)


@contextmanager
def interruptible() -> Iterator[None]:
    """Meanwhile, SIGTERM and Ctrl-C end a start of vLLM's at once.

    Raises:
        SystemExit: that is why it has ended; status 0, as of a server that is told to end later.
    """
    plain = vllm.v1.engine.utils.zmq_socket_ctx

    @contextmanager
    def open_socket(*args: Any, **options: Any) -> Iterator[Any]:
        with plain(*args, **options) as socket, _in_order():
            yield socket

    vllm.v1.engine.utils.zmq_socket_ctx = open_socket
    # A handler that is not Python's own is left alone by asyncio, and replaced by vLLM once the server is up.
    before = signal.signal(signal.SIGINT, _interrupt)
    try:
        with _in_order():
            yield
    finally:
        signal.signal(signal.SIGINT, before)
        vllm.v1.engine.utils.zmq_socket_ctx = plain


@contextmanager
def _in_order() -> Iterator[None]:
    """Turn KeyboardInterrupt into an end of the program that nobody catches."""
    try:
        yield
    except KeyboardInterrupt:
        logger.info("Told to end before the server was up.")
        raise SystemExit(0) from None


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
