"""The base of both worker classes of ours: the platform's own worker, and the attributes that ours read.

vLLM promises that `--worker-cls` takes the name of a class. It does not promise which class the platform's own worker
is, nor the attributes of that worker.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import nn
from vllm.distributed import get_pp_group, get_tensor_model_parallel_rank
from vllm.platforms import current_platform

from traitwatch.vllm_private.batch import BatchLayout, LayoutReader, allocate_stage_inputs, layout_reader
from traitwatch.vllm_private.layers import StateModule, state_modules

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as _PlatformWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as _PlatformWorker


class StateWorker(_PlatformWorker):  # type: ignore[misc]
    """A vLLM worker that knows where the hidden states of its model are, and whose rows a pass has computed.

    The worker also knows when its weights may have changed. vLLM replaces weights in place in several ways: a reload
    from disk, a transfer from a trainer, a deep sleep. Extensions of the worker call the model's `load_weights`.

    Attributes:
        device: the device of the worker (vLLM's own attribute).
        weights_asleep: whether the engine sleeps and has not its weights.
        replacements: how often the weights were replaced or lost since they were last those of the served model.
    """

    weights_asleep: bool = False
    replacements: int = 0
    _layout_reader: LayoutReader
    _first_path: str

    def load_model(self, *, load_dummy_weights: bool = False) -> None:
        """Load the model.

        Raises:
            LayoutError: the model runner is not one that we know.
        """
        super().load_model(load_dummy_weights=load_dummy_weights)
        self._layout_reader = layout_reader(self.model_runner)
        if current_platform.is_cpu() and not get_pp_group().is_first_rank:
            allocate_stage_inputs(self.model_runner)
        self._first_path = self.vllm_config.model_config.model
        model: Any = self.model
        model.load_weights = self._noted(model.load_weights)

    def on_awake(self) -> None:
        """Do what must follow when a sleeping engine has its memory for weights again."""

    def on_new_weights(self, *, whole: bool) -> None:
        """Note that the weights may have changed.

        Args:
            whole: False where they are being changed, and more changes follow.
        """

    def sleep(self, level: int = 1) -> None:
        """Free the memory of the weights. From level 2 on, their values are lost."""
        self.weights_asleep = True
        self.replacements += level >= 2 and not current_platform.is_cpu()
        super().sleep(level)

    def wake_up(self, tags: list[str] | None = None) -> None:
        """Take the memory again: for the weights, or only for what `tags` name."""
        super().wake_up(tags)
        if tags is None or "weights" in tags:
            self.weights_asleep = False
            self.on_awake()
            self.on_new_weights(whole=True)

    def reload_weights(
        self, weights_iterator: Any = None, weights_path: str | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """Replace the weights by those of an iterator, or of a path: without both, the path of the last reload."""
        super().reload_weights(weights_iterator, weights_path, *args, **kwargs)
        self.replacements += 1
        if weights_iterator is None and self.vllm_config.model_config.model == self._first_path:
            self.replacements = 0
        self.on_new_weights(whole=True)

    def reset_weights(self) -> None:
        """Make all weights zero."""
        super().reset_weights()
        self.replacements += 1
        self.on_new_weights(whole=True)

    def update_weights(self, *args: Any, **kwargs: Any) -> None:
        """Replace some weights by those of a trainer; `finish_weight_update` follows."""
        self.replacements += 1
        self.on_new_weights(whole=False)
        super().update_weights(*args, **kwargs)

    def finish_weight_update(self) -> None:
        """End the replacement of weights by those of a trainer."""
        super().finish_weight_update()
        self.on_new_weights(whole=True)

    def _noted(self, load_weights: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method of the model that loads weights, and notes that it does."""

        @wraps(load_weights)
        def noted(*args: Any, **kwargs: Any) -> Any:
            self.replacements += 1
            self.on_new_weights(whole=False)
            return load_weights(*args, **kwargs)

        return noted

    @property
    def model(self) -> nn.Module:
        """The model, as vLLM loaded it."""
        model: nn.Module = self.model_runner.get_model()
        return model

    @property
    def num_layers(self) -> int:
        """Decoder layers of the text model."""
        return int(self.vllm_config.model_config.get_total_num_hidden_layers())

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return int(self.vllm_config.model_config.get_hidden_size())

    @property
    def max_scheduled_tokens(self) -> int:
        """The most tokens that the scheduler puts into one pass."""
        return int(self.vllm_config.scheduler_config.max_num_batched_tokens)

    @property
    def max_rows(self) -> int:
        """The most rows that a pass can have: the scheduler's budget or the largest padded graph."""
        return max(self.max_scheduled_tokens, int(self.vllm_config.compilation_config.max_cudagraph_capture_size or 0))

    @property
    def engine_index(self) -> int:
        """Index of the worker's data-parallel engine, as vLLM's metrics have it."""
        return int(self.vllm_config.parallel_config.data_parallel_index)

    @property
    def is_first_of_tensor_parallel(self) -> bool:
        """Whether this is rank 0 of the workers that split each layer: all of them hold the same states."""
        return bool(get_tensor_model_parallel_rank() == 0)

    def additional_config(self, key: str) -> Any:
        """Return an entry of the engine's `--additional-config`."""
        return self.vllm_config.additional_config[key]

    def state_modules(self) -> dict[int, StateModule]:
        """Return where the hidden states of the layers are that this worker holds; see `layers.state_modules`."""
        return state_modules(self.model, self.num_layers, last_stage=get_pp_group().is_last_rank)

    def read_layout(self) -> BatchLayout:
        """Return which rows of the last pass belong to which request."""
        return self._layout_reader(self.model_runner)
