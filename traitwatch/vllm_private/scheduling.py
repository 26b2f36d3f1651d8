"""Reads which requests begin and which have ended: vLLM hands the scheduler's output to each worker before a pass.

`drop_fatal_seeds` changes this output, on a CPU alone.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NewRequest:
    """A request that has its first pass.

    Attributes:
        req_id: vLLM's id of the request.
        extra_args: the entries that the API process put into its sampling parameters.
        prompt_len: tokens of its prompt.
        has_ids: whether its prompt has token ids; a prompt of embeddings has none.
    """

    req_id: str
    extra_args: Mapping[str, Any]
    prompt_len: int
    has_ids: bool = True


def finished_requests(scheduler_output: Any) -> set[str]:
    """Return vLLM's ids of the requests that ended before this pass."""
    finished: set[str] = scheduler_output.finished_req_ids
    return finished


def new_requests(scheduler_output: Any) -> Iterator[NewRequest]:
    """Return the requests that have their first pass and whose sampling parameters have extra entries."""
    for new in scheduler_output.scheduled_new_reqs:
        extra_args = new.sampling_params.extra_args if new.sampling_params else None
        if extra_args:
            yield NewRequest(new.req_id, extra_args, _prompt_len(new), new.prompt_token_ids is not None)


def has_tokens(scheduler_output: Any) -> bool:
    """Return whether the pass computes any token."""
    return bool(scheduler_output.total_num_scheduled_tokens)


def drop_fatal_seeds(scheduler_output: Any) -> None:
    """Remove the seed of new requests whose prompt is prefilled in chunks; only a CPU needs that.

    vLLM rewinds the generator of a seeded request after each chunk but the last. A CPU generator cannot rewind ("CPU
    Generator does not use offset"): the engine would end, with every other request in it.
    """
    for new in scheduler_output.scheduled_new_reqs:
        params = new.sampling_params
        if params is None or params.seed is None:
            continue
        if new.num_computed_tokens + scheduler_output.num_scheduled_tokens[new.req_id] < _prompt_len(new):
            logger.warning(
                "The seed of request %s is not used: on a CPU, vLLM takes no seed for so long a prompt.", new.req_id
            )
            params.seed = None


def _prompt_len(new: Any) -> int:
    if new.prompt_token_ids is not None:
        return len(new.prompt_token_ids)
    return int(new.prompt_embeds.shape[0])
