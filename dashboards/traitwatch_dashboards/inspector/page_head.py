"""Edits the head of the page: adds our icon, and removes Gradio's `meta` tags for social networks."""

import re

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SOCIAL = re.compile(rb'\s*<meta\s+(?:property|name)="(?:og|twitter):[^>]*>')
_HEAD = b"<head>"


class PageHead:
    """Pure ASGI middleware. All responses except the page itself pass unchanged."""

    def __init__(self, app: ASGIApp, icon: str):
        """Wrap an application.

        Args:
            app: the application that serves the page.
            icon: address of the icon.
        """
        self._app = app
        self._icon = f'<link rel="icon" type="image/svg+xml" href="{icon}">'.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http" or scope["method"] != "GET" or scope["path"] != "/":
            await self._app(scope, receive, send)
            return
        started: Message = {}
        body = bytearray()

        async def hold(message: Message) -> None:
            if message["type"] == "http.response.start":
                started.update(message)
                return
            if message["type"] != "http.response.body":
                await send(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body", False):
                return
            headers = MutableHeaders(raw=started["headers"])
            page = bytes(body)
            if headers.get("content-type", "").startswith("text/html"):
                page = _SOCIAL.sub(b"", page).replace(_HEAD, _HEAD + self._icon, 1)
                headers["content-length"] = str(len(page))
            await send(started)
            await send({"type": "http.response.body", "body": page})

        # A compressed page could not be edited.
        plain = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        await self._app({**scope, "headers": plain}, receive, hold)
