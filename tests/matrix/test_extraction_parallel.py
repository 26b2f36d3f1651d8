"""Two workers that split the layers, in either way, read the states that one worker reads.

The model is a tiny Llama: the embedded model has 9 heads, which two workers cannot share.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from traitwatch_builder.reading.states import Span
from traitwatch_builder.reading.transformers_reader import Reader
from traitwatch_builder.reading.vllm_reader import VllmReader

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def tiny(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("tiny")
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    AutoTokenizer.from_pretrained(model).save_pretrained(directory)
    return directory


@pytest.mark.parametrize(("tensor", "pipeline"), [(2, 1), (1, 2)], ids=["tensor parallel", "pipeline parallel"])
def test_two_workers_read_the_states_of_one_worker(
    tensor: int, pipeline: int, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    random = np.random.default_rng(0)
    opening = random.integers(0, 49000, 200).tolist()
    spans = [
        Span([*opening, *random.integers(0, 49000, own).tolist()], start)
        for own, start in ((5, 200), (60, 210), (300, 0), (7, 100), (1, 200))
    ]
    directions = random.standard_normal((7, 128)).astype(np.float32)
    expected = dict(Reader.load(tiny).read(spans, lambda count: None, directions))
    with VllmReader(
        tiny, 1024, dtype="float32", tensor_parallel_size=tensor, pipeline_parallel_size=pipeline
    ) as reader:
        got = dict(reader.read(spans, lambda count: None, directions))
    assert got.keys() == expected.keys()
    for i, reading in got.items():
        np.testing.assert_allclose(reading.mean, expected[i].mean, atol=1e-4)
        np.testing.assert_allclose(reading.last, expected[i].last, atol=1e-4)
        np.testing.assert_allclose(reading.projections, expected[i].projections, atol=1e-3)
