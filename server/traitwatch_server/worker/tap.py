"""The tap: forward hooks that project the hidden states of chosen layers onto the loaded vectors.

Each tapped layer gets two buffers, registered on its module so that torch.compile treats them as it treats weights:
`vectors` (one unit column a trait) and `projections` (one row a token of the batch). Loading a trait writes a column;
nothing is recompiled. Both are non-persistent: weight loading, LoRA and saving never see them.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import nn

import traitwatch_server.worker.projection  # noqa: F401  (registers torch.ops.traitwatch.project)
from traitwatch.errors import LayoutError
from traitwatch.vllm_private.layers import StateModule, state_parts

# Part of vLLM's compile cache key, through additional_config: raise it whenever the traced code changes.
TAP_VERSION = 2

_VECTORS = "traitwatch_vectors"
_PROJECTIONS = "traitwatch_projections"


class Tap:
    """The hooks of one worker, on the layers that this worker holds.

    Attributes:
        layers: the tapped layer indices, ascending.
    """

    def __init__(self, modules: Mapping[int, StateModule], *, hidden_size: int, max_tokens: int, columns: int):
        """Allocate the buffers and register the hooks.

        Args:
            modules: layer index to the module whose output is that layer's hidden state.
            hidden_size: width of the residual stream.
            max_tokens: the most tokens that one forward pass can carry, padding included.
            columns: columns of each layer, free ones included.
        """
        self.layers = sorted(modules)
        self._modules = {layer: state.module for layer, state in modules.items()}
        self._used = dict.fromkeys(self.layers, 0)
        for layer, module in self._modules.items():
            device = next((p.device for p in module.parameters()), torch.device("cpu"))
            module.register_buffer(_VECTORS, torch.zeros(hidden_size, columns, device=device), persistent=False)
            module.register_buffer(_PROJECTIONS, torch.zeros(max_tokens, columns, device=device), persistent=False)
            module.register_forward_hook(partial(_project_hook, modules[layer].summed))

    @property
    def widths(self) -> list[int]:
        """Columns that `read` gives of each layer: those up to the last that was ever loaded."""
        return [self._used[layer] for layer in self.layers]

    def load(self, layer: int, column: int, directions: torch.Tensor) -> None:
        """Make `directions` the vectors of a layer's columns from `column` on.

        Args:
            layer: a tapped layer index.
            column: the first of the columns.
            directions: `[num_traits, hidden_size]`, float32, unit rows.
        """
        vectors = self._modules[layer].get_buffer(_VECTORS)
        end = column + directions.shape[0]
        if end > vectors.shape[1] or directions.shape[1] != vectors.shape[0]:
            raise LayoutError(
                f"layer {layer} has {vectors.shape[1]} columns of {vectors.shape[0]} values, "
                f"got {list(directions.shape)} from column {column} on."
            )
        vectors[:, column:end].copy_(directions.T)
        self._used[layer] = max(self._used[layer], end)

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
    """Project the hidden state that a module's output is, or is the sum of."""
    hidden, residual = state_parts(output, summed)
    torch.ops.traitwatch.project(hidden, residual, module.traitwatch_vectors, module.traitwatch_projections)
