"""A local HTTP server with scripted answers and faults. Tests point the real SDKs at this server.

A test gives a function from a request to a `Reply`. `openai.py` and `anthropic.py` beside this file build replies in
the wire formats of the two providers.
"""

import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    """A received request.

    Attributes:
        path: the path, e.g. `/v1/chat/completions`.
        headers: the headers, with names in lower case.
        body: the JSON body; None without a body.
        number: the number of requests before this one.
    """

    path: str
    headers: dict[str, str]
    body: Any
    number: int


@dataclass(frozen=True)
class Reply:
    """The server's answer to a request.

    Attributes:
        body: JSON data, or bytes that are sent unchanged.
        status: the HTTP status.
        headers: further headers, e.g. `retry-after`.
        delay: seconds before the answer is sent.
        drop: whether to reset the connection instead of an answer.
    """

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drop: bool = False


class WireServer:
    """The running server.

    Attributes:
        url: `http://127.0.0.1:PORT`.
        requests: all requests so far, in the order of their arrival.
        most_at_once: the highest number of requests that were open at one time.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[Request] = []
        self.most_at_once = 0
        self._open = 0
        self._lock = threading.Lock()

    def _arrived(self, path: str, headers: dict[str, str], body: Any) -> Request:
        with self._lock:
            request = Request(path, headers, body, len(self.requests))
            self.requests.append(request)
            self._open += 1
            self.most_at_once = max(self.most_at_once, self._open)
        return request

    def _answered(self) -> None:
        with self._lock:
            self._open -= 1


@contextmanager
def wire_server(respond: Callable[[Request], Reply]) -> Iterator[WireServer]:
    """Run a server on a free port inside a `with` block."""
    running: WireServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._handle(None)

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
            self._handle(json.loads(raw) if raw else None)

        def _handle(self, body: Any) -> None:
            request = running._arrived(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            try:
                self._send(respond(request))
            except (BrokenPipeError, ConnectionResetError):
                pass  # The client was killed or gave up. Some tests do this on purpose.
            finally:
                running._answered()

        def _send(self, reply: Reply) -> None:
            if reply.delay:
                time.sleep(reply.delay)
            if reply.drop:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
                return
            content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in {"content-type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

        def handle_error(self, request: Any, client_address: Any) -> None:
            # Some tests kill a client in the middle of a request.
            if not isinstance(sys.exc_info()[1], ConnectionError):
                super().handle_error(request, client_address)

    server = Server(("127.0.0.1", 0), Handler)
    running = WireServer(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
