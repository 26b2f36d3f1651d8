"""Runs an ASGI application in a thread: a stand-in for a server, or a proxy before the server of a test."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from traitwatch.processes import free_port


@contextmanager
def hosted(app: ASGIApp) -> Iterator[str]:
    """Serve an application inside the block; yield its address once it answers."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.05)
        assert thread.is_alive()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
