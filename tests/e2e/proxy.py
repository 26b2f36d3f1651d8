"""A reverse proxy that serves another server under a path, as companies do."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import httpx
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from tests.e2e.hosted import hosted

_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding"}


@contextmanager
def proxied(target: str, path: str) -> Iterator[str]:
    """Serve `target` under `path`; yield the address of the proxy, with the path."""

    async def passed(request: Request) -> StreamingResponse:
        client = httpx.AsyncClient(timeout=None)
        url = httpx.URL(target + request.url.path.removeprefix(path), query=request.url.query.encode())
        headers = {name: value for name, value in request.headers.items() if name not in _HOP}
        headers["accept-encoding"] = "identity"
        forwarded = client.build_request(request.method, url, headers=headers, content=await request.body())
        answer = await client.send(forwarded, stream=True)

        async def body() -> AsyncIterator[bytes]:
            async for part in answer.aiter_raw():
                yield part

        passed_headers = {name: value for name, value in answer.headers.items() if name not in _HOP}
        return StreamingResponse(body(), answer.status_code, passed_headers, background=BackgroundTask(client.aclose))

    routes = [Route(f"{path}/{{rest:path}}", passed, methods=["GET", "POST", "HEAD", "DELETE"])]
    with hosted(Starlette(routes=routes)) as address:
        yield f"{address}{path}"
