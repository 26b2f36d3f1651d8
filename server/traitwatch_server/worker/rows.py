"""Which rows of a forward pass are sent: of scored requests, all from the prompt's last position on, or all."""

from collections.abc import Mapping
from dataclasses import dataclass

from traitwatch.vllm_private.batch import BatchLayout
from traitwatch_server.wire import RowRun


@dataclass(frozen=True)
class TrackedRequest:
    """A request that carries a key.

    Attributes:
        key: what the API process calls it.
        prompt_len: tokens of its prompt; the first generated token has this position.
        with_prompt: whether the rows of its prompt are wanted too.
    """

    key: str
    prompt_len: int
    with_prompt: bool = False


def scored_rows(layout: BatchLayout, requests: Mapping[str, TrackedRequest]) -> tuple[list[RowRun], slice | list[int]]:
    """Choose the rows to send.

    Where `layout.num_computed` is an upper bound, the choice is right all the same: it is exact in a prompt, and beyond
    the prompt every row is sent.

    Returns:
        The runs, and their rows in the same order: a slice where they are one run, else the row numbers.
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
