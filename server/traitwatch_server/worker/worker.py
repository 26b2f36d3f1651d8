"""The worker class for `--worker-cls`: the platform's own worker, with the tap in its model.

After each forward pass, the worker asks the model runner which rows belong to which request. It chooses the rows of the
requests that carry a key, from the last position of the prompt on. It hands the projections of these rows to the
sender. Hidden states never leave the device.
"""

import logging
from typing import Any

import torch
from vllm.platforms import current_platform

from traitwatch.errors import LayoutError
from traitwatch.failures import FailureLog
from traitwatch.vllm_private.batch import BatchLayout
from traitwatch.vllm_private.scheduling import drop_fatal_seeds, finished_requests, has_tokens, new_requests
from traitwatch.vllm_private.worker import StateWorker
from traitwatch_server.process import ProcessReference, end_with, log_with_vllm
from traitwatch_server.wire import CONFIG_KEY, PROMPT_KEY, REQUEST_KEY, TAP_VERSION, api_process_of
from traitwatch_server.worker.rows import TrackedRequest, row_heads, scored_rows
from traitwatch_server.worker.sender import Rows, Sender
from traitwatch_server.worker.tap import Tap
from traitwatch_server.worker.weights import fingerprint

logger = logging.getLogger(__name__)


class TraitWorker(StateWorker):
    """A vLLM worker that scores tokens."""

    _tap: Tap
    _sender: Sender | None

    def load_model(self, *, load_dummy_weights: bool = False) -> None:
        """Load the model, then tap it: before profiling and compilation, so that the hooks are traced."""
        log_with_vllm()
        super().load_model(load_dummy_weights=load_dummy_weights)
        self._requests: dict[str, TrackedRequest] = {}
        # In the order in which they connected.
        self._api_processes: dict[str, None] = {}
        self._failures = FailureLog(
            logger, "The projections of a pass could not be read; its responses are incomplete."
        )
        self._guarded = False
        self._new_weights = False
        self._sender = None
        self._tap = self._make_tap()

    def _make_tap(self) -> Tap:
        config = self.additional_config(CONFIG_KEY)
        if config["tap"] != TAP_VERSION:
            raise LayoutError(
                f"the configuration has version {config['tap']} of the tap, but the worker has version {TAP_VERSION}; "
                "install the same Traitwatch for both."
            )
        states = self.state_modules()
        return Tap(
            {layer: states[layer] for layer in config["layers"] if layer in states},
            hidden_size=self.hidden_size,
            max_tokens=self.max_rows,
            columns=config["columns"],
            device=self.device,
        )

    def traitwatch_connect(self, api_process: str, endpoint: str) -> None:
        """Send the rows of an API process's requests to `endpoint` (called by `collective_rpc`)."""
        if not self.is_first_of_tensor_parallel or not self._tap.layers:
            return
        if self._sender is None:
            self._sender = Sender(self._tap.layers, self.engine_index)
            self._sender.set_weights(fingerprint(self.model, self.replacements))
        self._sender.connect(api_process, endpoint)
        self._api_processes[api_process] = None

    def traitwatch_end_with(self, pid: int, system: str) -> None:
        """End this worker's engine when the launcher has ended (called by `collective_rpc`).

        Args:
            pid: process id of the launcher.
            system: the system in which this is its id; see `ProcessReference`.
        """
        if not self._guarded:
            end_with(ProcessReference(pid, system))
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
            self._tap.load(layer, column, values.reshape(num_traits, -1), asleep=self.weights_asleep)

    def on_awake(self) -> None:
        """Write the vectors again: vLLM has restored those of the moment at which the engine fell asleep."""
        self._tap.restore()

    def on_new_weights(self, *, whole: bool) -> None:
        """Tell the API processes that the weights have changed; where more changes follow, with the next pass."""
        self._new_weights = True
        if whole:
            self._tell_weights()

    def _tell_weights(self) -> None:
        try:
            if self._sender is not None:
                self._sender.set_weights(fingerprint(self.model, self.replacements))
            self._new_weights = False
        except Exception as error:  # noqa: BLE001 (a FailureLog logs it)
            # A monitoring failure must not end the engine.
            self._failed(error)

    def execute_model(self, scheduler_output: Any) -> Any:
        """Run the pass, then send the projections of the scored requests' rows."""
        if current_platform.is_cpu():
            drop_fatal_seeds(scheduler_output)
        output = super().execute_model(scheduler_output)
        try:
            if self._new_weights:
                self._tell_weights()
            self._track(scheduler_output)
            if self._sender is not None and self._requests and has_tokens(scheduler_output):
                self._send(self.read_layout())
        except Exception as error:  # noqa: BLE001 (a FailureLog logs it)
            # A monitoring failure must not end the engine. The responses are incomplete.
            self._failed(error)
        return output

    def _failed(self, error: Exception) -> None:
        """Count a failure of a pass, and log it."""
        self._failures.failed(error)
        if self._sender is not None:
            self._sender.count_failed_pass(next(iter(self._api_processes)))

    def shutdown(self) -> None:
        """End the sender, then the worker."""
        if getattr(self, "_sender", None) is not None:
            assert self._sender is not None
            self._sender.close()
        super().shutdown()

    def _track(self, scheduler_output: Any) -> None:
        """Remember the requests that carry a key, from their first pass until vLLM lists them as ended."""
        for req_id in finished_requests(scheduler_output):
            self._requests.pop(req_id, None)
        for new in new_requests(scheduler_output):
            key = new.extra_args.get(REQUEST_KEY)
            # A client made up a key that belongs to no API process.
            if not isinstance(key, str) or api_process_of(key) not in self._api_processes:
                continue
            if new.req_id not in self._requests:
                with_prompt = bool(new.extra_args.get(PROMPT_KEY))
                self._requests[new.req_id] = TrackedRequest(key, new.prompt_len, with_prompt, new.has_ids)

    def _send(self, layout: BatchLayout) -> None:
        assert self._sender is not None
        runs, rows = scored_rows(layout, self._requests)
        if not runs:
            return
        index = rows if isinstance(rows, slice) else self._on_device(rows)
        head = row_heads(layout.positions[index], layout.token_ids[index], runs, self._requests)
        # This is a copy. On the current stream it comes before the next pass, which overwrites the buffers.
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
