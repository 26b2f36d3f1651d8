"""The tap: forward hooks that project the hidden states of chosen layers onto the loaded vectors.

Each tapped layer gets two buffers, registered on its module so that torch.compile treats them as it treats weights:
`vectors` (one unit column for each trait) and `projections` (one row for each token of the batch). Loading a trait
writes a column; nothing is recompiled. Both are non-persistent: weight loading, LoRA and saving never see them.

vLLM saves the buffers of a model before a deep sleep, and restores them when the engine wakes. A vector that was loaded
meanwhile would be lost. So the tap keeps all vectors in host memory, and `restore` writes them after the engine woke.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import nn

from traitwatch.errors import LayoutError
from traitwatch.vllm_private.layers import StateModule, state_parts

_VECTORS = "traitwatch_vectors"
_PROJECTIONS = "traitwatch_projections"


_LIBRARY = torch.library.Library("traitwatch", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("project(Tensor hidden, Tensor? residual, Tensor vectors, Tensor(a!) out) -> ()")  # type: ignore[no-untyped-call]


def project(hidden: torch.Tensor, residual: torch.Tensor | None, vectors: torch.Tensor, out: torch.Tensor) -> None:
    """Write the projections of every token of the batch into `out`.

    The sum is taken in float32: vLLM keeps the residual stream as two tensors, and adding them in bfloat16 would
    round once more than transformers does in float32.

    Args:
        hidden: `[num_tokens, hidden_size]`, model dtype.
        residual: as `hidden`, or None where the layer returns the residual stream as one tensor.
        vectors: `[hidden_size, num_columns]`, float32, unit columns (a free column is zero).
        out: `[max_num_tokens, num_columns]`, float32; rows up to num_tokens are written, in the units of `hidden`.
    """
    if hidden.shape[0] > out.shape[0]:
        raise RuntimeError(f"a pass of {hidden.shape[0]} rows, but the tap was made for {out.shape[0]}")
    stream = hidden.float()
    if residual is not None:
        stream = stream + residual.float()
    torch.mm(stream, vectors, out=out[: stream.shape[0]])


def _project_fake(
    hidden: torch.Tensor, residual: torch.Tensor | None, vectors: torch.Tensor, out: torch.Tensor
) -> None:
    return None


_LIBRARY.impl("project", project, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("traitwatch::project", _project_fake, lib=_LIBRARY)


class Tap:
    """The hooks of one worker, on the layers that this worker holds.

    Attributes:
        layers: the tapped layer indices, ascending.
    """

    def __init__(
        self,
        modules: Mapping[int, StateModule],
        *,
        hidden_size: int,
        max_tokens: int,
        columns: int,
        device: torch.device,
    ):
        """Allocate the buffers and register the hooks.

        Args:
            modules: layer index to the module whose output is that layer's hidden state.
            hidden_size: width of the residual stream.
            max_tokens: the most tokens that one forward pass can carry, padding included.
            columns: columns of each layer, the free ones included.
            device: the device on which the model computes. Weights may be elsewhere: vLLM can offload them to the host.
        """
        self.layers = sorted(modules)
        self._modules = {layer: state.module for layer, state in modules.items()}
        self._used = dict.fromkeys(self.layers, 0)
        # What was loaded, in host memory: `[hidden_size, columns]`, float32. A sleeping engine may lose device memory.
        self._loaded = {layer: torch.zeros(hidden_size, columns) for layer in self.layers}
        for layer, module in self._modules.items():
            module.register_buffer(_VECTORS, torch.zeros(hidden_size, columns, device=device), persistent=False)
            module.register_buffer(_PROJECTIONS, torch.zeros(max_tokens, columns, device=device), persistent=False)
            module.register_forward_hook(partial(_project_hook, modules[layer].summed))

    @property
    def widths(self) -> list[int]:
        """The number of columns that `read` returns for each layer: up to the last column that was ever loaded."""
        return [self._used[layer] for layer in self.layers]

    def load(self, layer: int, column: int, directions: torch.Tensor, *, asleep: bool = False) -> None:
        """Make `directions` the vectors of a layer's columns from `column` on.

        Args:
            layer: a tapped layer index.
            column: the first of the columns.
            directions: `[num_traits, hidden_size]`, float32, unit rows.
            asleep: whether the engine sleeps. Then `restore` must follow when it has woken.
        """
        vectors = self._loaded[layer]
        end = column + directions.shape[0]
        if end > vectors.shape[1] or directions.shape[1] != vectors.shape[0]:
            raise LayoutError(
                f"layer {layer} has {vectors.shape[1]} columns of {vectors.shape[0]} values, "
                f"got {list(directions.shape)} from column {column} on."
            )
        vectors[:, column:end].copy_(directions.T)
        if not asleep:
            self._modules[layer].get_buffer(_VECTORS)[:, column:end].copy_(directions.T)
        self._used[layer] = max(self._used[layer], end)

    def restore(self) -> None:
        """Write all loaded vectors to the device again."""
        for layer, module in self._modules.items():
            module.get_buffer(_VECTORS).copy_(self._loaded[layer])

    def read(self, rows: slice | torch.Tensor) -> list[torch.Tensor]:
        """Return the projections of some rows of the last batch, layer by layer.

        Args:
            rows: a slice, or int64 row numbers on the device.

        Returns:
            For each tapped layer in ascending order `[num_rows, width]`, float32, on the device. Slices are views: the
            next pass overwrites them.
        """
        parts = []
        for layer in self.layers:
            projections = self._modules[layer].get_buffer(_PROJECTIONS)[:, : self._used[layer]]
            parts.append(projections[rows] if isinstance(rows, slice) else projections.index_select(0, rows))
        return parts


def _project_hook(summed: bool, module: nn.Module, args: object, output: object) -> None:
    """Project the hidden state of a module's output: the output itself, or the sum of its two tensors."""
    hidden, residual = state_parts(output, summed)
    torch.ops.traitwatch.project(hidden, residual, module.traitwatch_vectors, module.traitwatch_projections)
