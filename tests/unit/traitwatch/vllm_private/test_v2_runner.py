"""vLLM's V2 model runner, the default on CUDA. vLLM's own dataclasses give its batch.

The runner's modules import on a CPU. `tests/matrix/test_v2_runner.py` runs the whole runner in a server.
"""

import ast
import dataclasses
import inspect
import textwrap
from types import SimpleNamespace

import pytest
import torch
from vllm import SamplingParams
from vllm.config import SpeculativeConfig
from vllm.v1.core.sched.output import NewRequestData
from vllm.v1.request import Request
from vllm.v1.worker.gpu.input_batch import InputBatch, InputBuffers
from vllm.v1.worker.gpu.model_runner import ExecuteModelState, GPUModelRunner
from vllm.v1.worker.gpu_worker import Worker

from traitwatch.errors import LayoutError
from traitwatch.vllm_private.batch import BatchLayout, layout_reader


def runner_after_a_pass(batch: InputBatch) -> GPUModelRunner:
    """Return a runner with a batch, as `execute_model` leaves it."""
    runner = GPUModelRunner.__new__(GPUModelRunner)
    others = dict.fromkeys(ExecuteModelState._fields)
    runner.execute_model_state = ExecuteModelState(**{**others, "input_batch": batch})
    return runner


def read(runner: GPUModelRunner) -> BatchLayout:
    return layout_reader(runner)(runner)


def mixed_batch() -> InputBatch:
    """Return a padded batch: a decode at position 7, a chunk of a prompt from 4 on, a whole prompt of 5 tokens."""
    buffers = InputBuffers(max_num_reqs=8, max_num_tokens=32, device=torch.device("cpu"))
    batch = InputBatch.make_dummy(3, 9, buffers)
    batch.req_ids = ["decode", "chunk", "prompt"]
    batch.num_scheduled_tokens[:] = [1, 3, 5]
    # Full CUDA graphs pad requests too: the runner has more boundaries than requests.
    batch.query_start_loc_np = torch.tensor([0, 1, 4, 9, 9, 9]).int().numpy()
    batch.num_computed_tokens_np[:] = [7, 4, 0]
    buffers.positions[:9] = torch.tensor([7, 4, 5, 6, 0, 1, 2, 3, 4])
    buffers.input_ids[:9] = torch.arange(50, 59)
    batch.positions, batch.input_ids = buffers.positions[:16], buffers.input_ids[:16]
    return batch


def test_the_layout_of_a_mixed_batch() -> None:
    layout = read(runner_after_a_pass(mixed_batch()))
    assert list(layout.req_ids) == ["decode", "chunk", "prompt"]
    assert layout.starts.tolist() == [0, 1, 4, 9]
    assert layout.num_computed.tolist() == [7, 4, 0]
    assert layout.positions[:9].tolist() == [7, 4, 5, 6, 0, 1, 2, 3, 4]
    assert layout.token_ids[:9].tolist() == list(range(50, 59))


def test_the_runner_keeps_the_batch_of_a_pass_until_it_samples() -> None:
    """`execute_model` sets the batch. A method that clears it runs after our worker reads it, or without requests."""
    cleared = {
        name
        for name, function in inspect.getmembers(GPUModelRunner, inspect.isfunction)
        if "self.execute_model_state = None" in inspect.getsource(function)
    }
    assert cleared == {"sample_tokens", "pool", "_dummy_run"}
    assert "sample_tokens" not in inspect.getsource(Worker.execute_model)


def test_every_return_of_a_pass_with_tokens_is_after_the_assignment_of_the_batch() -> None:
    """The other returns belong to steps without tokens. Our worker does not read the batch of such a step."""
    function = ast.parse(textwrap.dedent(inspect.getsource(GPUModelRunner.execute_model)))
    [batch_line] = [
        node.lineno
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        and ast.unparse(node).startswith("self.execute_model_state = ExecuteModelState(")
    ]
    early = [node.lineno for node in ast.walk(function) if isinstance(node, ast.Return) and node.lineno < batch_line]
    empty = [
        child.lineno
        for node in ast.walk(function)
        if isinstance(node, ast.If)
        and ast.unparse(node.test) in ("scheduler_output.total_num_scheduled_tokens == 0", "batch_desc.num_tokens == 0")
        for child in node.body
        if isinstance(child, ast.Return)
    ]
    assert len(early) == 2
    assert sorted(early) == sorted(empty)


def test_a_resumed_request_comes_as_new_with_its_first_prompt() -> None:
    """So the length of its prompt, and the place of each row, stay the same."""
    request = Request("id", [1, 2, 3], SamplingParams(max_tokens=9), None)
    request.append_output_token_ids([4, 5])
    data = NewRequestData.from_request(request, (), prefill_token_ids=list(request.all_token_ids))
    assert (data.prompt_token_ids, data.prefill_token_ids) == ([1, 2, 3], [1, 2, 3, 4, 5])


@pytest.mark.parametrize("module", ["gpu_model_runner", "gpu.model_runner"])
def test_rows_that_only_the_device_can_place_are_refused(module: str) -> None:
    assert "enable_adaptive_verification" in {field.name for field in dataclasses.fields(SpeculativeConfig)}
    assert "self.speculative_config = " in inspect.getsource(GPUModelRunner.__init__)
    runner = type("GPUModelRunner", (), {"__module__": f"vllm.v1.worker.{module}"})()
    runner.speculative_config = SimpleNamespace(enable_adaptive_verification=False)
    layout_reader(runner)
    runner.speculative_config.enable_adaptive_verification = True
    with pytest.raises(LayoutError, match="enable_adaptive_verification"):
        layout_reader(runner)
