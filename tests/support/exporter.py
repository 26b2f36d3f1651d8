"""Serves `/metrics` with made-up values, for tests that need a real Prometheus and no model."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Exporter:
    """Metrics that the test sets. Counters grow with time."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._gauges: dict[str, float] = {}
        self._counters: dict[str, tuple[float, float]] = {}

    def gauge(self, name: str, value: float | None) -> None:
        """Set a gauge, or remove it with None."""
        gauges = {**self._gauges, name: value}
        self._gauges = {name: value for name, value in gauges.items() if value is not None}

    def counter(self, name: str, per_second: float) -> None:
        """Start a counter at 0."""
        self._counters = {**self._counters, name: (time.monotonic(), per_second)}

    def text(self) -> str:
        now = time.monotonic()
        counters = {name: (now - began) * growth for name, (began, growth) in self._counters.items()}
        return "".join(f"{name} {value}\n" for name, value in {**self._gauges, **counters}.items())


@contextmanager
def exporting() -> Iterator[Exporter]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = exporter.text().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        exporter = Exporter(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
        thread.start()
        try:
            yield exporter
        finally:
            server.shutdown()
            thread.join()
