"""The worker class of the vLLM engine that extracts: the platform's own worker, which sums the states it computes.

Hooks on the first layer's input, every decoder layer and the final norm hand the residual stream to `StateSums`. The
engine runs eagerly, so that hooks are plain Python; results are fetched by `collective_rpc`.
"""

from functools import partial
from typing import Any

import torch
from torch import nn

from traitwatch.errors import LayoutError
from traitwatch.vllm_private.layers import is_placeholder, layer_modules, state_parts
from traitwatch.vllm_private.scheduling import finished_requests, has_tokens, new_requests
from traitwatch.vllm_private.worker import StateWorker
from traitwatch_builder.reading.sums import CUTS, KEY, StateSums


class SumsWorker(StateWorker):
    """A vLLM worker that sums hidden states."""

    _sums: StateSums

    def load_model(self, *, load_dummy_weights: bool = False) -> None:
        """Load the model, then hook its layers: before profiling, so that the buffer is accounted for."""
        super().load_model(load_dummy_weights=load_dummy_weights)
        first = layer_modules(self.model, self.num_layers)[0][0]
        mine = self.state_modules()
        embedding = [] if is_placeholder(first) else [0]
        self._sums = StateSums(
            [*embedding, *sorted(mine)],
            self.hidden_size,
            self.max_scheduled_tokens,
            self.device,
        )
        for layer, state in mine.items():
            state.module.register_forward_hook(partial(_state_hook, self._sums, layer, state.summed))
        if embedding:
            first.register_forward_pre_hook(partial(_input_hook, self._sums, self.hidden_size), with_kwargs=True)

    def execute_model(self, scheduler_output: Any) -> Any:
        """Run the pass, then add what it computed to the sums of its requests."""
        for req_id in finished_requests(scheduler_output):
            self._sums.end(req_id)
        for new in new_requests(scheduler_output):
            if KEY in new.extra_args:
                self._sums.ask(new.req_id, new.extra_args[KEY], new.extra_args[CUTS], new.prompt_len)
        output = super().execute_model(scheduler_output)
        if has_tokens(scheduler_output):
            with torch.inference_mode():
                self._sums.collect(self.read_layout())
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
            self._sums.project_on(values.reshape(-1, self.hidden_size))

    def traitwatch_take(self, keys: list[int]) -> tuple[list[int], list[dict[str, Any]]] | None:
        """Return the layers of this worker and the sums of requests (called by `collective_rpc`), and forget those.

        Returns:
            None of the tensor-parallel ranks that hold the same states as rank 0; else what `StateSums.take` says.
        """
        taken = [self._sums.take(key) for key in keys]
        return (self._sums.layers, taken) if self.is_first_of_tensor_parallel else None


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
