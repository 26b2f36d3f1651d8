"""The model of the engine matrix: a small random Llama in float32. Its projections are exact to the fourth decimal.

In float32, vLLM and transformers agree to about 1e-5 of the spread. The projections of two tokens differ by about a
spread. So a check cannot take the row of another token for rounding. In bfloat16 it could.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tests.support.tiny_model import save_tokenizer
from traitwatch.vectors import Float32Array, load_vectors, save_tensor

NUM_LAYERS = 4
HIDDEN_SIZE = 128
# The last layer is after the final norm. Each of two pipeline stages has some of these layers.
PROBE_LAYERS = (1, 2, 4)
LAYER_OPTIONS = [option for layer in PROBE_LAYERS for option in ("--traits-layer", f"probe{layer}={layer}")]
# The largest error of a projection, in spreads of the trait's projections. The row of another token has an error of 1.
MAX_ERROR = 2e-3


def save_model(directory: Path) -> Path:
    """Write the model with the same weights in every run. Each of two tensor-parallel ranks has two attention heads."""
    tokenizer = save_tokenizer(directory)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=256,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        # The weights are larger than usual, so that the context changes the next token.
        initializer_range=0.1,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def save_probes(directory: Path) -> Path:
    """Write one random vector for each probed layer."""
    random = np.random.default_rng(7)
    directory.mkdir(parents=True, exist_ok=True)
    for layer in PROBE_LAYERS:
        vector = random.standard_normal((NUM_LAYERS + 1, HIDDEN_SIZE)).astype(np.float32)
        save_tensor(vector, directory / f"probe{layer}_response_avg_diff.pt")
    return directory


class Oracle:
    """Computes the expected projections with transformers in float32."""

    def __init__(self, model: Path, probes: Path):
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        layers = {f"probe{layer}": layer for layer in PROBE_LAYERS}
        self._directions = {v.trait: (layers[v.trait], v.direction(layers[v.trait])) for v in load_vectors([probes])}

    @torch.inference_mode()
    def projections(self, token_ids: Sequence[int]) -> dict[str, Float32Array]:
        """Return the projection of every position of a text for each probe: `[num_tokens]`, float32."""
        states = self._model(torch.tensor([list(token_ids)]), output_hidden_states=True).hidden_states
        return {name: states[layer][0].numpy() @ direction for name, (layer, direction) in self._directions.items()}

    def check(self, traits: Mapping[str, Any], prompt: Sequence[int], response: Sequence[int]) -> float:
        """Assert that the `traits` of an answer are the projections of all its own tokens.

        Args:
            traits: the whole `traits` of an answer, with the tokens.
            prompt: ids of the prompt's tokens.
            response: ids of the generated tokens.

        Returns:
            The largest error of a projection, in spreads.
        """
        worst = 0.0
        for name, expected in self.projections([*prompt, *response]).items():
            scores = traits[name]
            assert len(scores["tokens"]) == len(response), f"{name}: {len(scores['tokens'])} of {len(response)} tokens"
            assert scores["tokens"][-1:] in ([None], []), f"{name}: the last token has no state"
            got = np.array([scores["prompt_last"], *scores["tokens"][:-1]], dtype=np.float64)
            wanted = expected[len(prompt) - 1 : len(prompt) - 1 + len(got)]
            error = np.abs(got - wanted) / expected.std()
            assert not np.isnan(error).any(), f"{name}: projections are missing at {np.nonzero(np.isnan(error))[0]}"
            assert error.max() <= MAX_ERROR, (
                f"{name}: token {int(error.argmax()) - 1} is off by {error.max():.3f} spreads"
            )
            worst = max(worst, float(error.max()))
        return worst
