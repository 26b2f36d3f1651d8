"""Receives and stores the notifications that Alertmanager posts to a webhook, for a demonstration or a test."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Notice:
    """One alert in a notification.

    Attributes:
        status: `firing` or `resolved`.
        labels: labels of the alert, with `alertname`.
        annotations: annotations of the alert.
        received: time of arrival, in seconds of `time.monotonic`.
    """

    status: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    received: float

    @property
    def name(self) -> str:
        """The alert's name."""
        return self.labels["alertname"]


class Webhook:
    """The notices that the webhook has received so far. Any thread may read them.

    Attributes:
        url: address of the webhook.
    """

    def __init__(self, url: str):
        """Begin without notices.

        Args:
            url: address of the webhook.
        """
        self.url = url
        self._notices: list[Notice] = []
        self._changed = threading.Condition()

    def notices(self) -> list[Notice]:
        """Return all notices, in order of arrival."""
        with self._changed:
            return list(self._notices)

    def wait_for(self, wanted: Callable[[Notice], bool], timeout: float) -> Notice | None:
        """Wait for the first notice that `wanted` accepts, and return it; return None after `timeout` seconds."""

        def first() -> Notice | None:
            return next((notice for notice in self._notices if wanted(notice)), None)

        with self._changed:
            self._changed.wait_for(lambda: first() is not None, timeout)
            return first()

    def receive(self, body: Mapping[str, Any]) -> None:
        """Store the alerts of a notification."""
        now = time.monotonic()
        notices = [Notice(a["status"], a["labels"], a["annotations"], now) for a in body["alerts"]]
        with self._changed:
            self._notices += notices
            self._changed.notify_all()


@contextmanager
def webhook_receiver() -> Iterator[Webhook]:
    """Listen on a free port of 127.0.0.1, in a thread, while the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                webhook.receive(json.loads(body))
            except (ValueError, KeyError, TypeError):
                self.send_error(HTTPStatus.BAD_REQUEST, "not a notification of Alertmanager")
                return
            self.send_response(HTTPStatus.OK)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # the base class writes to stderr
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        webhook = Webhook(f"http://127.0.0.1:{server.server_port}/")
        thread = threading.Thread(target=server.serve_forever, name="webhook", kwargs={"poll_interval": 0.1})
        thread.start()
        try:
            yield webhook
        finally:
            server.shutdown()
            thread.join()
