"""bfloat16 is chosen only where the processor multiplies it fast."""

import subprocess
import sys

import pytest
import torch

from traitwatch.precision import default_precision, default_vllm_dtype


@pytest.mark.parametrize(
    ("cuda", "supported", "expected", "dtype"),
    [(True, False, "bfloat16", "auto"), (False, True, "bfloat16", "auto"), (False, False, "float32", "float32")],
)
def test_the_precision_follows_the_processor(
    cuda: bool, supported: bool, expected: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    assert default_precision() == expected
    assert default_vllm_dtype() == dtype


def test_a_processor_without_avx512_gets_float32() -> None:
    """oneDNN then ignores instructions that this processor may have."""
    script = "from traitwatch.precision import default_precision; print(default_precision())"
    environment = {"ONEDNN_MAX_CPU_ISA": "AVX2", "CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "float32\n"


def test_the_module_imports_no_torch() -> None:
    script = "import sys, traitwatch.precision; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "False\n"
