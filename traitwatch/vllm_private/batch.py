"""Reads from a model runner which rows of a batch belong to which request. vLLM promises none of these attributes.

The builder's engine and the server's tap both stand on this module, and on `traitwatch.vllm_private.layers`. A contract
test checks each part against the installed vLLM. A runner that does not look as expected is refused at start-up: to
read the wrong rows is worse than to read none.

`allocate_stage_inputs` also gives a later pipeline stage on a CPU the tensors that it receives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from traitwatch.errors import LayoutError


@dataclass(frozen=True)
class BatchLayout:
    """Which rows of the last forward pass belong to which request.

    Attributes:
        req_ids: the requests, in the order of their rows.
        starts: `[num_reqs + 1]`; request i has the rows from starts[i] to starts[i + 1].
        num_computed: `[num_reqs]`; the position of request i's first row. With asynchronous speculation it is an upper
            bound: vLLM learns on the device alone how many drafts of the last pass were accepted.
        positions: `[num_rows or more]`, integers on the device: each row's own position, exact.
        token_ids: `[num_rows or more]`, integers on the device: the token that each row had as its input.
    """

    req_ids: Sequence[str]
    starts: npt.NDArray[np.int32]
    num_computed: npt.NDArray[np.int32]
    positions: torch.Tensor
    token_ids: torch.Tensor


class LayoutReader(Protocol):
    """Reads the layout of the batch that a model runner has just run."""

    def __call__(self, runner: Any) -> BatchLayout:
        """Return the layout."""
        ...


def _read_v1(runner: Any) -> BatchLayout:
    batch = runner.input_batch
    count = len(batch.req_ids)
    # The runner's own boundaries: with `ngram_gpu` it drops drafts that the scheduler's output still counts.
    starts, computed = runner.query_start_loc.np[: count + 1], batch.num_computed_tokens_cpu[:count]
    return BatchLayout(batch.req_ids, starts, computed, runner.positions, runner.input_ids.gpu)


def _read_v2(runner: Any) -> BatchLayout:
    batch = runner.execute_model_state.input_batch
    count = batch.num_reqs
    starts, computed = batch.query_start_loc_np[: count + 1], batch.num_computed_tokens_np[:count]
    return BatchLayout(batch.req_ids, starts, computed, batch.positions, batch.input_ids)


def layout_reader(runner: object) -> LayoutReader:
    """Choose the reader for a model runner; raise `LayoutError` for one whose batch layout is not known."""
    if getattr(getattr(runner, "speculative_config", None), "enable_adaptive_verification", False):
        raise LayoutError(
            "with enable_adaptive_verification, speculative decoding places the rows on the device alone, where "
            "Traitwatch cannot see which rows belong to which request; set enable_adaptive_verification to false."
        )
    readers: dict[str, LayoutReader] = {
        "vllm.v1.worker.gpu_model_runner.GPUModelRunner": _read_v1,
        "vllm.v1.worker.gpu.model_runner.GPUModelRunner": _read_v2,
    }
    for base in type(runner).__mro__:
        reader = readers.get(f"{base.__module__}.{base.__qualname__}")
        if reader is not None:
            return reader
    raise LayoutError(
        f"model runner {type(runner).__module__}.{type(runner).__qualname__} is not known to Traitwatch: rows "
        "could reach the wrong request. Use a vLLM version and a platform that the documents list as supported."
    )


def allocate_stage_inputs(runner: Any) -> None:
    """Allocate the tensors that a later pipeline stage receives. On a CPU vLLM allocates them only when it compiles."""
    if getattr(runner, "intermediate_tensors", "kept elsewhere") is None:
        runner.intermediate_tensors = runner.get_model().make_empty_intermediate_tensors(
            batch_size=runner.max_num_tokens, dtype=runner.model_config.dtype, device=runner.device
        )
