"""Scores vLLM's V2 model runner, the default on CUDA: the real runner, on a CPU.

Triton kernels prepare its batch. Here they run in Triton's interpreter (`interpreted/sitecustomize.py`). Everything
else is as on a GPU, except CUDA graphs, streams and compiled kernels. One server does everything at the same time:
asynchronous scheduling, chunked prefill, the prefix cache, speculation, and a KV cache that is too small for all the
requests.
"""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.random_llama import LAYER_OPTIONS, Oracle
from tests.support.serving import MODEL_NAME, Server, serving, traitwatch

pytestmark = pytest.mark.engine

OPTIONS = (
    "--enforce-eager", "--dtype", "float32", "--async-scheduling", "--max-num-batched-tokens", "96",
    "--block-size", "32", "--num-gpu-blocks-override", "40", "--max-num-seqs", "24",
)  # fmt: skip
INTERPRETED = {
    "VLLM_USE_V2_MODEL_RUNNER": "1",
    "TRITON_INTERPRET": "1",
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).with_name("interpreted")), os.environ.get("PYTHONPATH", "")]),
}


@pytest.fixture(scope="module")
def v2(model: Path, probes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # The model drafts greedily for itself. Some drafts of a sampled answer are dropped, and none of a greedy answer.
    drafts = json.dumps({"method": "draft_model", "model": str(model), "num_speculative_tokens": 3})
    command = traitwatch("serve", model, "--traits", probes, *LAYER_OPTIONS, "--speculative-config", drafts)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in INTERPRETED.items():
            patch.setenv(name, value)
        with serving([*command, *OPTIONS], tmp_path_factory.mktemp("v2") / "server.log") as server:
            yield server


def test_the_v2_runner_runs(v2: Server) -> None:
    assert "Using V2 Model Runner" in v2.log.read_text()


async def test_every_answer_has_its_own_projections(v2: Server, oracle: Oracle) -> None:
    """Prompts are longer or shorter than a pass. Answers are sampled or greedy. Some clients leave."""

    async def answer(client: Any, number: int) -> None:
        await asyncio.sleep(0.03 * number)
        completion: Any = await client.completions.create(**_request(number))
        choice = completion.choices[0]
        assert choice.traits_complete is True, f"request {number}"
        oracle.check(choice.traits, choice.prompt_token_ids, choice.token_ids)

    async with v2.async_client() as client:
        await asyncio.gather(
            *(answer(client, number) for number in range(24)),
            *(_abort_after(client, number, 1 + 2 * number) for number in range(6)),
        )
    assert v2.metric("vllm:num_preemptions_total") > 0
    drafts = v2.metric("vllm:spec_decode_num_draft_tokens_total")
    assert 0 < v2.metric("vllm:spec_decode_num_accepted_tokens_total") < drafts
    assert v2.metric("vllm:prefix_cache_hits_total") > 0


def _request(number: int) -> dict[str, Any]:
    """Return request `number`. A third of the requests are greedy."""
    return {
        "model": MODEL_NAME,
        "prompt": [*range(20, 20 + 12 * (number % 4)), *range(100 + number, 110 + 5 * number)],
        "max_tokens": 30 + 7 * (number % 6),
        "temperature": 0.0 if number % 3 == 0 else 1.0,
        "extra_body": {"return_token_ids": True, "ignore_eos": True},
    }


async def _abort_after(client: Any, number: int, events: int) -> None:
    """Stream a long answer and hang up after some events."""
    request = {**_request(number), "max_tokens": 300, "stream": True}
    async with await client.completions.create(**request) as stream:
        seen = 0
        async for _ in stream:
            seen += 1
            if seen > events:
                break
