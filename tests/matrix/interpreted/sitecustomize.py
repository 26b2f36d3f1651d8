"""Lets vLLM run Triton's kernels in Triton's interpreter. Python imports this file if its folder is on PYTHONPATH.

vLLM's CPU build uses Triton only if Triton has a `cpu` backend. With TRITON_INTERPRET=1 no backend compiles anything:
kernels run in numpy on the CPU's own tensors. So a pretended backend is enough.
"""

from types import SimpleNamespace

from triton.backends import backends

backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True), compiler=None)
