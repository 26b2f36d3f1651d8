"""For comparison: takes whole hidden states into the API process, and projects them there with numpy.

This is an ASGI middleware, because vLLM lets such code into its API process. Every request passes unchanged, and
answers get no scores. So this measures the least cost of the approach.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

import numpy as np
import zmq
import zmq.asyncio

from traitwatch.vectors import DEFAULT_LAYER, Float32Array, load_vectors


class HiddenStatesReader:
    """Projects the hidden states from the worker. `GET /bench/rows` returns the number of projected rows."""

    def __init__(self, app: Any):
        self._app = app
        vectors = load_vectors([Path(os.environ["BENCH_VECTORS"])])
        self._directions = np.stack([vector.direction(DEFAULT_LAYER) for vector in vectors], axis=1)
        self._task: asyncio.Task[None] | None = None
        self._rows = 0
        self._projections: dict[str, list[Float32Array]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Start the receiver at the first call, on the server's event loop. Then pass every call on."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        if scope["type"] == "http" and scope["path"] == "/bench/rows":
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b'{"rows": %d}' % self._rows})
            return
        await self._app(scope, receive, send)

    async def _run(self) -> None:
        socket = zmq.asyncio.Context.instance().socket(zmq.PULL)
        socket.bind(os.environ["BENCH_ENDPOINT"])
        while True:
            ids, data = await socket.recv_multipart()
            projections = to_float32(data, self._directions.shape[0]) @ self._directions
            for req_id, row in zip(ids.decode().split("\n"), projections, strict=True):
                self._projections.setdefault(req_id, []).append(row)
            self._rows += len(projections)
            # The reader does not know when a request ends. So the number of requests has a limit.
            while len(self._projections) > 256:
                del self._projections[next(iter(self._projections))]


def to_float32(data: bytes, hidden_size: int) -> Float32Array:
    """Widen bfloat16 values to float32 `[num_rows, hidden_size]`: they are the upper half of its bits."""
    halves = np.frombuffer(data, dtype=np.uint16).reshape(-1, hidden_size)
    return (halves.astype(np.uint32) << 16).view(np.float32)
