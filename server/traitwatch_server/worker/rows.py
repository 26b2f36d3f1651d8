"""Which rows of a forward pass are sent: those of tracked requests, from the last position of the prompt on.

A request whose prompt is scored too sends all of its rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from traitwatch.vllm_private.batch import BatchLayout
from traitwatch_server.wire import UNKNOWN_TOKEN, RowRun


@dataclass(frozen=True)
class TrackedRequest:
    """A request that carries a key.

    Attributes:
        key: the key that the API process gave the request.
        prompt_len: tokens of its prompt; the first generated token has this position.
        with_prompt: whether the rows of its prompt are sent too.
        has_ids: whether its prompt has token ids. A prompt of embeddings has none.
    """

    key: str
    prompt_len: int
    with_prompt: bool = False
    has_ids: bool = True


def scored_rows(layout: BatchLayout, requests: Mapping[str, TrackedRequest]) -> tuple[list[RowRun], slice | list[int]]:
    """Choose the rows to send.

    The choice is right even where `layout.num_computed` is an upper bound: within a prompt it is exact, and beyond the
    prompt every row is sent.

    Returns:
        The runs, and the numbers of their rows in the same order: a slice where the rows follow one another, else a
        list.
    """
    runs: list[RowRun] = []
    ranges: list[tuple[int, int]] = []
    starts = layout.starts.tolist()
    computed = layout.num_computed.tolist()
    for i, req_id in enumerate(layout.req_ids):
        request = requests.get(req_id)
        if request is None:
            continue
        skip = 0 if request.with_prompt else max(0, request.prompt_len - 1 - computed[i])
        first, end = starts[i] + skip, starts[i + 1]
        if first < end:
            runs.append(RowRun(request.key, req_id, request.prompt_len, end - first))
            if ranges and ranges[-1][1] == first:
                ranges[-1] = (ranges[-1][0], end)
            else:
                ranges.append((first, end))
    if len(ranges) == 1:
        return runs, slice(*ranges[0])
    return runs, [row for first, end in ranges for row in range(first, end)]


def row_heads(
    positions: torch.Tensor, token_ids: torch.Tensor, runs: Sequence[RowRun], requests: Mapping[str, TrackedRequest]
) -> torch.Tensor:
    """Return the first values of the rows: each row's position and token id.

    For a prompt of embeddings, the runner's batch holds whatever ids an earlier request has left there. Such a row gets
    `UNKNOWN_TOKEN`.

    Args:
        positions: `[num_rows]`, integers on the device.
        token_ids: `[num_rows]`, integers on the device.
        runs: the runs of the rows, in their order.
        requests: the tracked requests.

    Returns:
        `[num_rows, ROW_HEAD]`, float32, on the device.
    """
    heads = torch.stack([positions.float(), token_ids.float()], dim=1)
    first = 0
    for run in runs:
        end = first + run.count
        if not requests[run.req_id].has_ids:
            heads[first:end, 1].masked_fill_(positions[first:end] < run.prompt_len, UNKNOWN_TOKEN)
        first = end
    return heads
