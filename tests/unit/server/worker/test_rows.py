"""Which rows of a pass are sent, for every way in which vLLM splits a request."""

import numpy as np
import pytest
import torch

from traitwatch.vllm_private.batch import BatchLayout
from traitwatch_server.wire import UNKNOWN_TOKEN, RowRun
from traitwatch_server.worker.rows import TrackedRequest, row_heads, scored_rows

REQUESTS = {
    "r1": TrackedRequest("k1", prompt_len=10),
    "r2": TrackedRequest("k2", prompt_len=4),
    "all": TrackedRequest("k3", prompt_len=6, with_prompt=True),
}


def layout(*requests: tuple[str, int, int]) -> BatchLayout:
    """Return a layout; each request is (id, rows in this pass, position of the first)."""
    starts = np.cumsum([0, *(count for _, count, _ in requests)]).astype(np.int32)
    computed = np.array([c for _, _, c in requests], dtype=np.int32)
    unread = torch.empty(0)
    return BatchLayout([r for r, _, _ in requests], starts, computed, unread, unread)


@pytest.mark.parametrize(
    ("batch", "runs", "rows"),
    [
        pytest.param(layout(("r1", 10, 0)), [("k1", 1)], [9], id="a prompt gives its last state"),
        pytest.param(layout(("r1", 6, 0)), [], [], id="a first chunk of a prompt gives nothing"),
        pytest.param(layout(("r1", 4, 6)), [("k1", 1)], [3], id="its last chunk gives the last state"),
        pytest.param(layout(("r1", 1, 9)), [("k1", 1)], [0], id="a cached prompt is run from its last"),
        pytest.param(layout(("r1", 1, 10)), [("k1", 1)], [0], id="the first token's state"),
        pytest.param(layout(("r1", 4, 12)), [("k1", 4)], [0, 1, 2, 3], id="speculated tokens"),
        pytest.param(layout(("r1", 14, 0)), [("k1", 5)], [9, 10, 11, 12, 13], id="recomputation"),
        pytest.param(layout(("all", 4, 0)), [("k3", 4)], [0, 1, 2, 3], id="a chunk of a prompt that is wanted"),
        pytest.param(layout(("all", 2, 4)), [("k3", 2)], [0, 1], id="its last chunk"),
        pytest.param(layout(("other", 3, 7), ("r2", 1, 6)), [("k2", 1)], [3], id="others are passed over"),
        pytest.param(
            layout(("r1", 1, 13), ("r2", 4, 0), ("other", 1, 3)),
            [("k1", 1), ("k2", 1)],
            [0, 4],
            id="decode beside prefill",
        ),
        pytest.param(layout(("r1", 1, 13), ("r2", 1, 9)), [("k1", 1), ("k2", 1)], [0, 1], id="decode alone is one run"),
    ],
)
def test_rows_from_the_prompts_last_position_on(
    batch: BatchLayout, runs: list[tuple[str, int]], rows: list[int]
) -> None:
    got_spans, got_rows = scored_rows(batch, REQUESTS)
    assert [(run.key, run.count) for run in got_spans] == runs
    assert all(run.prompt_len == REQUESTS[run.req_id].prompt_len for run in got_spans)
    assert np.arange(100)[got_rows].tolist() == rows


def test_rows_of_a_prompt_of_embeddings_have_no_token_ids() -> None:
    """The batch has ids there, but of the request that had its place before."""
    requests = {"ids": TrackedRequest("k1", 3), "embedded": TrackedRequest("k2", 3, with_prompt=True, has_ids=False)}
    runs = [RowRun("k1", "ids", 3, 1), RowRun("k2", "embedded", 3, 4), RowRun("k1", "ids", 3, 1)]
    positions = torch.tensor([2, 0, 1, 2, 3, 4])
    token_ids = torch.tensor([50, 900, 901, 902, 61, 51])
    heads = row_heads(positions, token_ids, runs, requests)
    assert heads.dtype == torch.float32
    assert heads[:, 0].tolist() == positions.tolist()
    assert heads[:, 1].tolist() == [50, *[UNKNOWN_TOKEN] * 3, 61, 51]
