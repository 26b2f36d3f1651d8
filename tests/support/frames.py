"""Frames as a worker sends them, for the server's unit tests."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from traitwatch_server.wire import RowFrame, RowRun


@dataclass(frozen=True)
class SentRows:
    """Rows of one request: for each row its position, its input token and its projection."""

    key: str
    req_id: str
    prompt_len: int
    positions: Sequence[int]
    token_ids: Sequence[int]
    values: Sequence[float]


def frame(
    *parts: SentRows,
    layers: Sequence[int] = (2,),
    widths: Sequence[int] | None = None,
    dropped: int = 0,
    engine: int = 0,
    time: float = 0.0,
) -> RowFrame:
    """Return a frame with the rows of some requests. The projection of a row fills all columns of the row."""
    widths = [1] * len(layers) if widths is None else list(widths)
    rows = [
        [position, token_id, *[value] * sum(widths)]
        for part in parts
        for position, token_id, value in zip(part.positions, part.token_ids, part.values, strict=True)
    ]
    runs = [RowRun(part.key, part.req_id, part.prompt_len, len(part.positions)) for part in parts]
    return RowFrame(list(layers), widths, runs, dropped, engine, time, np.array(rows, dtype=np.float32).tobytes())


def answer_rows(key: str, prompt: Sequence[int], tokens: Sequence[int], req_id: str = "chatcmpl-x-1") -> SentRows:
    """Return the rows of a whole answer. The row at place p has the projection p; the prompt-last state has -1."""
    count = len(tokens)
    positions = range(len(prompt) - 1, len(prompt) - 1 + count)
    return SentRows(key, req_id, len(prompt), positions, [prompt[-1], *tokens[:-1]], range(-1, count - 1))
