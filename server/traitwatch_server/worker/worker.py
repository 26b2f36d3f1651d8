"""The worker class for `--worker-cls`: the platform's own worker, with the tap in its model.

After each forward pass it asks which rows belong to which request, keeps those from the prompt's last position on of
the requests that carry a key, and hands them to the sender. Hidden states never leave the device.
"""

import logging
from typing import Any

import torch
from vllm.distributed import get_pp_group, get_tensor_model_parallel_rank
from vllm.platforms import current_platform

from traitwatch.errors import LayoutError
from traitwatch.vllm_private.batch import BatchLayout, LayoutReader, allocate_stage_inputs, layout_reader
from traitwatch.vllm_private.layers import state_modules
from traitwatch_server.process import end_with, log_with_vllm
from traitwatch_server.wire import CONFIG_KEY, PROMPT_KEY, REQUEST_KEY, TAP_VERSION, api_process_of
from traitwatch_server.worker.rows import TrackedRequest, scored_rows
from traitwatch_server.worker.sender import Rows, Sender
from traitwatch_server.worker.tap import Tap

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker

logger = logging.getLogger(__name__)


class TraitWorker(PlatformWorker):  # type: ignore[misc]
    """A vLLM worker that scores tokens."""

    _tap: Tap
    _sender: Sender | None
    _read_layout: LayoutReader

    def load_model(self, *, load_dummy_weights: bool = False) -> None:
        """Load the model, then tap it: before profiling and compilation, so that the hooks are traced."""
        log_with_vllm()
        super().load_model(load_dummy_weights=load_dummy_weights)
        self._requests: dict[str, TrackedRequest] = {}
        self._api_processes: set[str] = set()
        self._failed = False
        self._guarded = False
        self._sender = None
        self._read_layout = layout_reader(self.model_runner)
        if current_platform.is_cpu() and not get_pp_group().is_first_rank:
            allocate_stage_inputs(self.model_runner)
        self._tap = self._make_tap()

    def _make_tap(self) -> Tap:
        config = self.vllm_config.additional_config[CONFIG_KEY]
        if config["tap"] != TAP_VERSION:
            raise LayoutError(f"configuration is of tap {config['tap']}, the worker of {TAP_VERSION}; install one.")
        model_config = self.vllm_config.model_config
        num_layers = model_config.get_total_num_hidden_layers()
        states = state_modules(self.model_runner.get_model(), num_layers, last_stage=get_pp_group().is_last_rank)
        return Tap(
            {layer: states[layer] for layer in config["layers"] if layer in states},
            hidden_size=model_config.get_hidden_size(),
            max_tokens=_max_tokens(self.vllm_config),
            columns=config["columns"],
        )

    def traitwatch_connect(self, api_process: str, endpoint: str) -> None:
        """Send the rows of an API process's requests to `endpoint` (called by `collective_rpc`)."""
        if get_tensor_model_parallel_rank() != 0 or not self._tap.layers:
            return
        if self._sender is None:
            self._sender = Sender(self._tap.layers, self.vllm_config.parallel_config.data_parallel_index)
        self._sender.connect(api_process, endpoint)
        self._api_processes.add(api_process)

    def traitwatch_end_with(self, launcher: int) -> None:
        """End this worker's engine when the launcher, a process id, has ended (called by `collective_rpc`)."""
        if not self._guarded:
            end_with(launcher)
        self._guarded = True

    def traitwatch_load(self, layer: int, column: int, directions: bytes, num_traits: int) -> None:
        """Make `directions` the vectors of a layer's columns from `column` on (called by `collective_rpc`).

        Args:
            layer: layer index; ignored on a pipeline stage that does not hold it.
            column: the first of the columns.
            directions: float32 `[num_traits, hidden_size]`, C order, unit rows.
            num_traits: number of rows.
        """
        if layer in self._tap.layers:
            values = torch.frombuffer(bytearray(directions), dtype=torch.float32)
            self._tap.load(layer, column, values.reshape(num_traits, -1).to(self.device))

    def execute_model(self, scheduler_output: Any) -> Any:
        """Run the pass, then send the projections of the scored requests' rows."""
        if current_platform.is_cpu():
            _drop_fatal_seeds(scheduler_output)
        output = super().execute_model(scheduler_output)
        try:
            self._track(scheduler_output)
            if self._sender is not None and self._requests and scheduler_output.total_num_scheduled_tokens:
                self._send(self._read_layout(self.model_runner))
        except Exception:
            # A monitoring failure must not end the engine; it is told once, and its responses are incomplete.
            if not self._failed:
                logger.exception("The projections of a pass could not be read; there may be more such passes.")
            self._failed = True
        return output

    def _track(self, scheduler_output: Any) -> None:
        """Remember the requests that carry a key, from their first pass until vLLM says they ended."""
        for req_id in scheduler_output.finished_req_ids:
            self._requests.pop(req_id, None)
        for new in scheduler_output.scheduled_new_reqs:
            extra_args = new.sampling_params.extra_args if new.sampling_params else None
            if not extra_args:
                continue
            key = extra_args.get(REQUEST_KEY)
            # A key of no API process is a client's own invention.
            if not isinstance(key, str) or api_process_of(key) not in self._api_processes:
                continue
            if new.req_id not in self._requests:
                with_prompt = bool(extra_args.get(PROMPT_KEY))
                self._requests[new.req_id] = TrackedRequest(key, _prompt_len(new), with_prompt)

    def _send(self, layout: BatchLayout) -> None:
        assert self._sender is not None
        runs, rows = scored_rows(layout, self._requests)
        if not runs:
            return
        index = rows if isinstance(rows, slice) else self._on_device(rows)
        head = torch.stack([layout.positions[index].float(), layout.token_ids[index].float()], dim=1)
        # A copy, ordered on the current stream before the next pass overwrites the buffers.
        values = torch.cat([head, *self._tap.read(index)], dim=1)
        ready = None
        if values.is_cuda:
            host = torch.empty_like(values, device="cpu", pin_memory=True)
            host.copy_(values, non_blocking=True)
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record()
            values = host
        self._sender.send(Rows(runs, self._tap.widths, values, ready))

    def _on_device(self, rows: list[int]) -> torch.Tensor:
        index = torch.tensor(rows, device="cpu", pin_memory=self.device.type == "cuda")
        return index.to(self.device, non_blocking=True)

    def shutdown(self) -> None:
        """End the sender, then the worker."""
        if getattr(self, "_sender", None) is not None:
            assert self._sender is not None
            self._sender.close()
        super().shutdown()


def _drop_fatal_seeds(scheduler_output: Any) -> None:
    """Take the seed from new requests whose prompt is prefilled in chunks.

    vLLM rewinds the generator of a seeded request after each chunk but the last, which a CPU generator cannot do
    ("CPU Generator does not use offset"): the engine would end, with every other request in it.
    """
    for new in scheduler_output.scheduled_new_reqs:
        params = new.sampling_params
        if params is None or params.seed is None:
            continue
        if new.num_computed_tokens + scheduler_output.num_scheduled_tokens[new.req_id] < _prompt_len(new):
            logger.warning(
                "The seed of request %s is not used: vLLM cannot on a CPU with so long a prompt.", new.req_id
            )
            params.seed = None


def _prompt_len(new: Any) -> int:
    if new.prompt_token_ids is not None:
        return len(new.prompt_token_ids)
    return int(new.prompt_embeds.shape[0])


def _max_tokens(vllm_config: Any) -> int:
    """Return the most rows a forward pass can have: the scheduler's budget or the largest padded graph."""
    captured = vllm_config.compilation_config.max_cudagraph_capture_size or 0
    return max(int(vllm_config.scheduler_config.max_num_batched_tokens), int(captured))
