"""The worker class of the vLLM engine that extracts: the platform's own worker, which sums the states it computes.

Hooks on the first layer's input, every decoder layer and the final norm hand the residual stream to `StateSums`. The
engine runs eagerly, so that hooks are plain Python; results are fetched by `collective_rpc`.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from vllm.distributed import get_pp_group, get_tensor_model_parallel_rank
from vllm.platforms import current_platform

from traitwatch.errors import LayoutError
from traitwatch.vllm_private.batch import LayoutReader, allocate_stage_inputs, layout_reader
from traitwatch.vllm_private.layers import is_placeholder, layer_modules, state_modules, state_parts
from traitwatch_builder.reading.sums import CUTS, KEY, StateSums

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker


class SumsWorker(PlatformWorker):  # type: ignore[misc]
    """A vLLM worker that sums hidden states."""

    _sums: StateSums
    _read_layout: LayoutReader

    def load_model(self, *, load_dummy_weights: bool = False) -> None:
        """Load the model, then hook its layers: before profiling, so that the buffer is accounted for."""
        super().load_model(load_dummy_weights=load_dummy_weights)
        self._read_layout = layout_reader(self.model_runner)
        if current_platform.is_cpu() and not get_pp_group().is_first_rank:
            allocate_stage_inputs(self.model_runner)
        config = self.vllm_config.model_config
        num_layers = config.get_total_num_hidden_layers()
        model = self.model_runner.get_model()
        first = layer_modules(model, num_layers)[0][0]
        mine = state_modules(model, num_layers, last_stage=get_pp_group().is_last_rank)
        embedding = [] if is_placeholder(first) else [0]
        self._sums = StateSums(
            [*embedding, *sorted(mine)],
            config.get_hidden_size(),
            int(self.vllm_config.scheduler_config.max_num_batched_tokens),
            self.device,
        )
        for layer, state in mine.items():
            state.module.register_forward_hook(partial(_state_hook, self._sums, layer, state.summed))
        if embedding:
            width = config.get_hidden_size()
            first.register_forward_pre_hook(partial(_input_hook, self._sums, width), with_kwargs=True)

    def execute_model(self, scheduler_output: Any) -> Any:
        """Run the pass, then add what it computed to the sums of its requests."""
        for req_id in scheduler_output.finished_req_ids:
            self._sums.end(req_id)
        for new in scheduler_output.scheduled_new_reqs:
            asked = (new.sampling_params.extra_args if new.sampling_params else None) or {}
            if KEY in asked:
                self._sums.ask(new.req_id, asked[KEY], asked[CUTS], len(new.prompt_token_ids))
        output = super().execute_model(scheduler_output)
        if scheduler_output.total_num_scheduled_tokens:
            with torch.inference_mode():
                self._sums.collect(self._read_layout(self.model_runner))
        return output

    def traitwatch_project_on(self, directions: bytes | None) -> None:
        """Project the states of later requests (called by `collective_rpc`).

        Args:
            directions: float32 `[num_layers + 1, hidden_size]`, C order; None: no projections.
        """
        if directions is None:
            self._sums.project_on(None)
        else:
            values = torch.frombuffer(bytearray(directions), dtype=torch.float32)
            self._sums.project_on(values.reshape(-1, self.vllm_config.model_config.get_hidden_size()))

    def traitwatch_take(self, keys: list[int]) -> tuple[list[int], list[dict[str, Any]]] | None:
        """Return the layers of this worker and the sums of requests (called by `collective_rpc`), and forget those.

        Returns:
            None of the tensor-parallel ranks that hold the same states as rank 0; else what `StateSums.take` says.
        """
        taken = [self._sums.take(key) for key in keys]
        return (self._sums.layers, taken) if get_tensor_model_parallel_rank() == 0 else None


def _state_hook(sums: StateSums, layer: int, summed: bool, module: nn.Module, args: object, output: object) -> None:
    """Keep the hidden state that a module's output is, or is the sum of."""
    sums.write(layer, *state_parts(output, summed))


def _input_hook(sums: StateSums, width: int, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    """Keep what goes into the first decoder layer: the embedding, scaled where the model scales it."""
    states = [
        value
        for value in (*args, *kwargs.values())
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.shape[-1] == width
    ]
    if len(states) != 1:
        raise LayoutError(
            f"the first {type(module).__name__} takes {len(states)} tensors as wide as its states; this architecture "
            "is not supported by --engine vllm, use --engine transformers."
        )
    sums.write(0, *state_parts(states[0], summed=False))
