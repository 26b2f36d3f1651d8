"""The installed version of vLLM has the private names that we read."""

import ast
import copy
import dataclasses
import inspect
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from traitwatch.errors import LayoutError
from traitwatch.vllm_private.batch import layout_reader


def text_of(module: str) -> str:
    """Return a module's source without an import of the module, which may need the libraries of a GPU."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text()


def source_of(module: str, name: str) -> ast.ClassDef:
    """Return the syntax tree of a class."""
    return next(
        node for node in ast.parse(text_of(module)).body if isinstance(node, ast.ClassDef) and node.name == name
    )


def fields_of(class_: ast.ClassDef) -> set[str]:
    return {n.target.id for n in class_.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}


def test_the_v1_runner_has_the_batch_that_we_read() -> None:
    batch = import_module("vllm.v1.worker.gpu_input_batch").InputBatch
    assert isinstance(inspect.getattr_static(batch, "req_ids"), property)
    assert "self.num_computed_tokens_cpu = " in inspect.getsource(batch.__init__)
    runner = ast.unparse(source_of("vllm.v1.worker.gpu_model_runner", "GPUModelRunner"))
    assert "self.input_batch = InputBatch(" in runner
    assert "self.query_start_loc.np[1:num_reqs + 1] = cu_num_tokens" in runner
    assert "self.input_ids = self._make_buffer(self.max_num_tokens, dtype=torch.int32)" in runner
    assert "self.positions = torch.zeros(self.max_num_tokens" in runner


def test_the_v2_runner_has_the_batch_that_we_read() -> None:
    batch = fields_of(source_of("vllm.v1.worker.gpu.input_batch", "InputBatch"))
    assert {"req_ids", "num_reqs", "query_start_loc_np", "num_computed_tokens_np", "positions", "input_ids"} <= batch
    assert "input_batch" in fields_of(source_of("vllm.v1.worker.gpu.model_runner", "ExecuteModelState"))
    assert "self.execute_model_state" in ast.unparse(source_of("vllm.v1.worker.gpu.model_runner", "GPUModelRunner"))


def test_the_scheduler_has_the_fields_that_we_track() -> None:
    output = import_module("vllm.v1.core.sched.output")
    scheduler_fields = {f.name for f in dataclasses.fields(output.SchedulerOutput)}
    assert {
        "scheduled_new_reqs",
        "num_scheduled_tokens",
        "total_num_scheduled_tokens",
        "finished_req_ids",
    } <= scheduler_fields
    new_fields = {f.name for f in dataclasses.fields(output.NewRequestData)}
    assert {"req_id", "prompt_token_ids", "prompt_embeds", "sampling_params"} <= new_fields


def named(module: str, qualname: str) -> Any:
    return type(qualname, (), {"__module__": module})()


def test_the_layout_of_a_v1_batch() -> None:
    runner = named("vllm.v1.worker.gpu_model_runner", "GPUModelRunner")
    runner.input_batch = SimpleNamespace(req_ids=["a", "b"], num_computed_tokens_cpu=np.array([7, 0, 99]))
    runner.positions = torch.tensor([7, 0, 1, 2, 9])
    runner.input_ids = SimpleNamespace(gpu=torch.tensor([50, 60, 61, 62, 9]))
    runner.query_start_loc = SimpleNamespace(np=np.array([0, 1, 4, 4, 4]))
    layout = layout_reader(runner)(runner)
    assert (layout.req_ids, layout.starts.tolist(), layout.num_computed.tolist()) == (["a", "b"], [0, 1, 4], [7, 0])
    assert layout.positions[:4].tolist() == [7, 0, 1, 2]
    assert layout.token_ids[:4].tolist() == [50, 60, 61, 62]


def test_the_layout_of_a_v2_batch() -> None:
    runner = named("vllm.v1.worker.gpu.model_runner", "GPUModelRunner")
    batch = SimpleNamespace(
        req_ids=["a", "b"],
        num_reqs=2,
        query_start_loc_np=np.array([0, 1, 4, 4, 4]),
        num_computed_tokens_np=np.array([7, 0]),
        positions=torch.tensor([7, 0, 1, 2, 0]),
        input_ids=torch.tensor([50, 60, 61, 62, 0]),
    )
    runner.execute_model_state = SimpleNamespace(input_batch=batch)
    layout = layout_reader(runner)(runner)
    assert (layout.req_ids, layout.starts.tolist(), layout.num_computed.tolist()) == (["a", "b"], [0, 1, 4], [7, 0])
    assert layout.positions[:4].tolist() == [7, 0, 1, 2]
    assert layout.token_ids[:4].tolist() == [50, 60, 61, 62]


def test_a_runner_derived_from_a_known_one_is_known() -> None:
    base = type("GPUModelRunner", (), {"__module__": "vllm.v1.worker.gpu_model_runner"})
    layout_reader(type("CPUModelRunner", (base,), {})())


def test_an_unknown_runner_is_refused() -> None:
    with pytest.raises(LayoutError, match="not known to Traitwatch"):
        layout_reader(named("vllm.v9", "Runner"))


def test_a_later_stage_of_a_pipeline_has_the_inputs_that_we_allocate() -> None:
    runner = source_of("vllm.v1.worker.gpu_model_runner", "GPUModelRunner")
    allocation = (
        "self.intermediate_tensors = self.model.make_empty_intermediate_tensors("
        "batch_size=self.max_num_tokens, dtype=self.model_config.dtype, device=self.device)"
    )
    assert allocation in ast.unparse(runner)


def test_a_request_can_pass_the_prefix_cache_by() -> None:
    params = import_module("vllm.sampling_params").SamplingParams
    assert params(skip_reading_prefix_cache=True).skip_reading_prefix_cache is True


def test_every_endpoint_that_is_scored_generates_through_the_engine_client() -> None:
    """The server wraps this public method. The prompt and the parameters must be in their places."""
    client = import_module("vllm.engine.protocol").EngineClient
    parameters = inspect.signature(client.generate).parameters
    assert list(parameters)[:4] == ["self", "prompt", "sampling_params", "request_id"]
    assert parameters["lora_request"].kind is inspect.Parameter.KEYWORD_ONLY
    for module in (
        "vllm.entrypoints.openai.chat_completion.serving",
        "vllm.entrypoints.openai.chat_completion.batch_serving",
        "vllm.entrypoints.openai.completion.serving",
        "vllm.entrypoints.openai.responses.serving",
    ):
        calls = [
            node
            for node in ast.walk(ast.parse(inspect.getsource(import_module(module))))
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "self.engine_client.generate"
        ]
        assert len(calls) == 1, module
        assert len(calls[0].args) >= 3, module


def test_a_prompt_that_comes_in_pieces_is_an_asynchronous_generator() -> None:
    """The server tells such a prompt by its type, as vLLM does. A prompt of embeddings has no ids in the engine."""
    assert "if isinstance(prompt, AsyncGenerator):" in text_of("vllm.v1.engine.async_llm")
    processor = text_of("vllm.v1.engine.output_processor")
    assert "prompt_token_ids = [0] * len(self.prompt_embeds)" in processor


def test_sampling_parameters_are_copied_with_all_that_they_hold() -> None:
    params = import_module("vllm.sampling_params").SamplingParams(temperature=0.25, stop=["x"], extra_args={"a": 1})
    copied = copy.copy(params)
    copied.extra_args = {"b": 2}
    assert params.extra_args == {"a": 1}
    assert (copied.temperature, copied.stop, copied.output_kind) == (0.25, ["x"], params.output_kind)
