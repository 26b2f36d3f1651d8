"""For comparison: a worker that sends the hidden states of a layer out of the engine, as other plugins do.

It sends the rows that the tap would score: for each request of the batch, the last row of the pass. Each row has
hidden_size values in the model's dtype, where the tap sends one value a trait. Each pass is one binary frame.
"""

from typing import Any

import torch
import zmq
from torch import nn
from vllm.platforms import current_platform

from traitwatch.vllm_private.batch import layout_reader

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker

_BUFFER = "bench_hidden_states"


@torch.library.custom_op("traitwatch_bench::keep", mutates_args=("out",))
def keep(hidden: torch.Tensor, residual: torch.Tensor, out: torch.Tensor) -> None:
    """Write hidden + residual, both `[num_tokens, hidden_size]`, into the first rows of `out`."""
    torch.add(hidden, residual, out=out[: hidden.shape[0]])


@keep.register_fake
def _(hidden: torch.Tensor, residual: torch.Tensor, out: torch.Tensor) -> None:
    return None


class HiddenStatesWorker(PlatformWorker):  # type: ignore[misc]
    """A vLLM worker that sends hidden states."""

    def load_model(self, *, load_dummy_weights: bool = False) -> None:
        """Load the model and hook the layer, before compilation."""
        super().load_model(load_dummy_weights=load_dummy_weights)
        config = self.vllm_config.additional_config["hidden_states"]
        model_config = self.vllm_config.model_config
        self._module = self.model_runner.get_model().get_submodule(f"model.layers.{config['layer'] - 1}")
        shape = self.vllm_config.scheduler_config.max_num_batched_tokens, model_config.get_hidden_size()
        buffer = torch.zeros(shape, dtype=model_config.dtype, device=self.device)
        self._module.register_buffer(_BUFFER, buffer, persistent=False)
        self._module.register_forward_hook(_hook)
        self._read_layout = layout_reader(self.model_runner)
        socket = zmq.Context().socket(zmq.PUSH)
        socket.setsockopt(zmq.LINGER, 0)
        # A full queue would end the engine. Without a limit the queue grows, and the check of the rows finds the fault.
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.connect(config["endpoint"])
        self._socket = socket

    def execute_model(self, scheduler_output: Any) -> Any:
        """Run the pass, then send the last row of each request in it."""
        output = super().execute_model(scheduler_output)
        if scheduler_output.total_num_scheduled_tokens:
            layout = self._read_layout(self.model_runner)
            rows = torch.from_numpy(layout.starts[1:] - 1)
            states = self._module.get_buffer(_BUFFER).index_select(0, rows.to(self.device))
            ids = "\n".join(layout.req_ids).encode()
            # numpy has no bfloat16. So the two bytes of a value travel as an integer.
            data = states.cpu().view(torch.int16).numpy()
            self._socket.send_multipart([ids, data.tobytes()], zmq.NOBLOCK)
        return output


def _hook(module: nn.Module, args: object, output: Any) -> None:
    hidden, residual = output
    torch.ops.traitwatch_bench.keep(hidden, residual, module.bench_hidden_states)
