"""Which rows of a forward pass are sent: those of scored requests, from the prompt's last position on."""

from collections.abc import Mapping
from dataclasses import dataclass

from builder.vllm_private import BatchLayout
from server.transport import Span


@dataclass(frozen=True)
class ScoredRequest:
    """A request that carries a key.

    Attributes:
        key: what the API process calls it.
        prompt_len: tokens of its prompt; the first generated token has this position.
    """

    key: str
    prompt_len: int


def scored_rows(layout: BatchLayout, requests: Mapping[str, ScoredRequest]) -> tuple[list[Span], slice | list[int]]:
    """Choose the rows to send: of scored requests, from the prompt's last position on.

    Returns:
        The spans, and their rows in the same order: a slice where they are one run, else the row numbers.
    """
    spans: list[Span] = []
    runs: list[tuple[int, int]] = []
    starts = layout.starts.tolist()
    computed = layout.num_computed.tolist()
    for i, req_id in enumerate(layout.req_ids):
        request = requests.get(req_id)
        if request is None:
            continue
        # The state at the prompt's last position has place -1; rows before it are of the prompt.
        place = computed[i] - request.prompt_len
        skip = max(0, -1 - place)
        first, end = starts[i] + skip, starts[i + 1]
        if first < end:
            spans.append(Span(request.key, req_id, place + skip, end - first))
            if runs and runs[-1][1] == first:
                runs[-1] = (runs[-1][0], end)
            else:
                runs.append((first, end))
    if len(runs) == 1:
        return spans, slice(*runs[0])
    return spans, [row for first, end in runs for row in range(first, end)]
