"""How vLLM's processes start under our launcher: told to end, they end; and a terminal's Ctrl-C is the launcher's.

*Before the server is up*, vLLM raises KeyboardInterrupt when it is told to end. But the context in which it waits for
its engines takes that for an end of the wait, and the server would sit there for engines that nobody answers, for up
to ten minutes. And of a Ctrl-C, asyncio would at first only make a note.

*While it serves*, a Ctrl-C in a terminal reaches every process of the launcher's group. vLLM's workers end at once
then, and with them every answer that the API process would let finish. So engines, and the workers that they start,
are a group of their own.
"""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import vllm.v1.engine.utils
from vllm.v1.engine.coordinator import DPCoordinatorProc
from vllm.v1.engine.core import EngineCoreProc

logger = logging.getLogger(__name__)

_plain_engine = EngineCoreProc.run_engine_core
_plain_coordinator = DPCoordinatorProc.run_coordinator


@contextmanager
def launching() -> Iterator[None]:
    """Meanwhile, vLLM's processes start as they should.

    Raises:
        SystemExit: SIGTERM or Ctrl-C came before the server was up; status 0, as of a server that is told to end later.
    """
    plain_socket = vllm.v1.engine.utils.zmq_socket_ctx

    @contextmanager
    def open_socket(*args: Any, **options: Any) -> Iterator[Any]:
        with plain_socket(*args, **options) as socket, _in_order():
            yield socket

    vllm.v1.engine.utils.zmq_socket_ctx = open_socket
    EngineCoreProc.run_engine_core = staticmethod(_run_engine)
    DPCoordinatorProc.run_coordinator = staticmethod(_run_coordinator)
    # A handler that is not Python's own is left alone by asyncio, and replaced by vLLM once the server is up.
    before = signal.signal(signal.SIGINT, _interrupt)
    try:
        with _in_order():
            yield
    finally:
        signal.signal(signal.SIGINT, before)
        vllm.v1.engine.utils.zmq_socket_ctx = plain_socket
        EngineCoreProc.run_engine_core = staticmethod(_plain_engine)
        DPCoordinatorProc.run_coordinator = staticmethod(_plain_coordinator)


def _run_engine(*args: Any, **options: Any) -> None:
    """Be the process of an engine, in a group of its own."""
    os.setpgid(0, 0)
    _plain_engine(*args, **options)


def _run_coordinator(*args: Any, **options: Any) -> None:
    """Be the process of the engines' coordinator, likewise."""
    os.setpgid(0, 0)
    _plain_coordinator(*args, **options)


@contextmanager
def _in_order() -> Iterator[None]:
    """Turn KeyboardInterrupt into an end of the program that nobody catches."""
    try:
        yield
    except KeyboardInterrupt:
        logger.info("Interrupted while the server came up, or went down.")
        raise SystemExit(0) from None


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
