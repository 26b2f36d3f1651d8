"""Patches how vLLM's processes start under our launcher: SIGTERM ends them, and only the launcher gets Ctrl-C.

*Before the server is up*, vLLM raises KeyboardInterrupt on SIGTERM. But the context in which vLLM waits for its engines
takes a KeyboardInterrupt for the end of the wait. The server would then wait up to ten minutes for engines that nobody
answers. And asyncio would at first only note a Ctrl-C.

*While the server serves*, a Ctrl-C in a terminal reaches every process of the launcher's group. vLLM's workers would
end at once, and with them every answer that the API process would let finish. So each engine, with the workers that it
starts, gets a process group of its own.
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
    """Start vLLM's processes in the way of this module while the context lasts.

    Raises:
        SystemExit: SIGTERM or Ctrl-C came before the server was up. The status is 0, as at the end of a running server.
    """
    plain_socket = vllm.v1.engine.utils.zmq_socket_ctx

    @contextmanager
    def open_socket(*args: Any, **options: Any) -> Iterator[Any]:
        with plain_socket(*args, **options) as socket, _in_order():
            yield socket

    vllm.v1.engine.utils.zmq_socket_ctx = open_socket
    EngineCoreProc.run_engine_core = staticmethod(_run_engine)
    DPCoordinatorProc.run_coordinator = staticmethod(_run_coordinator)
    # asyncio leaves a handler alone that is not Python's own. vLLM replaces the handler once the server is up.
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
    """Run an engine in this process, in a process group of its own."""
    os.setpgid(0, 0)
    _plain_engine(*args, **options)


def _run_coordinator(*args: Any, **options: Any) -> None:
    """Run the engines' coordinator in this process, in a process group of its own."""
    os.setpgid(0, 0)
    _plain_coordinator(*args, **options)


@contextmanager
def _in_order() -> Iterator[None]:
    """Turn KeyboardInterrupt into SystemExit, which nobody catches."""
    try:
        yield
    except KeyboardInterrupt:
        logger.info("Interrupted while the server came up, or went down.")
        raise SystemExit(0) from None


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
