"""The hidden states travel as bfloat16. The reader widens them without a change of value."""

import numpy as np
import torch

from tests.benchmarks.serving.hidden_reader import to_float32


def test_bfloat16_is_read_as_torch_reads_it() -> None:
    states = torch.randn(5, 8, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    read = to_float32(states.view(torch.int16).numpy().tobytes(), 8)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, states.float().numpy())
