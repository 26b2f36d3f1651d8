"""Computes the expected projections with transformers in float32, and holds the bounds of the served precision."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from traitwatch.precision import default_precision
from traitwatch.vectors import Float32Array

# The precision in which the tests serve the embedded model.
SERVED_PRECISION = default_precision()
# bfloat16 keeps 8 bits, so each sum of the model rounds by up to 0.4 %. Over 30 layers, the errors add up like noise.
# Measured: correlations of 0.9997 and more, errors of 0.027 spreads and less (the test logs each number). float32 keeps
# 16 more bits. A tenth of bfloat16's errors is more than float32 needs.
_SHARE = 1.0 if SERVED_PRECISION == "bfloat16" else 0.1
MIN_CORRELATION = 1 - 0.001 * _SHARE
MAX_RELATIVE_ERROR = 0.04 * _SHARE
# Batched and solo runs differ only by the order of sums. A row of another chat differs by about 1.4 spreads.
MAX_RELATIVE_ERROR_BATCHED = 0.06 * _SHARE
# If a text has large errors in the served precision, transformers also has errors there: at most this factor apart.
MAX_TIMES_ROUNDING = 1.5


class Reference:
    """The served model in transformers: eager attention, no cache, and float32 unless another dtype is given."""

    def __init__(self, path: Path, dtype: torch.dtype = torch.float32):
        self._model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()

    @torch.inference_mode()
    def states(self, token_ids: Sequence[int]) -> Float32Array:
        """Return the hidden states of a text: `[num_layers + 1, num_tokens, hidden_size]`, float32."""
        output = self._model(torch.tensor([list(token_ids)]), output_hidden_states=True)
        return np.stack([state[0].float().numpy() for state in output.hidden_states])

    def projections(
        self, prompt: Sequence[int], response: Sequence[int], directions: Mapping[str, tuple[int, Float32Array]]
    ) -> dict[str, Float32Array]:
        """Return, per name, the projections from the prompt's last position to the last token but one: float32."""
        states = self.states([*prompt, *response])
        return {
            name: states[layer, len(prompt) - 1 : -1] @ direction for name, (layer, direction) in directions.items()
        }
