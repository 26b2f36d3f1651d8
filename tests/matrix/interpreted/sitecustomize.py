"""Lets vLLM run Triton's kernels in Triton's interpreter; Python imports this file where its folder is on PYTHONPATH.

vLLM's CPU build uses Triton only where a `cpu` backend of it is installed. With TRITON_INTERPRET=1 no backend compiles
anything: kernels run in numpy, on the CPU's own tensors. So it is enough that there seems to be one.
"""

from types import SimpleNamespace

from triton.backends import backends

backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True), compiler=None)
