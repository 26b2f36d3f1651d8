"""The environment of the doctor's checks: versions, device and model; the server's log names parts of the engine."""

import os
import platform
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from traitwatch.vllm_private.server_process import attention_backends, model_runner

_SECRET_OPTIONS = ("--hf-token", "--hf_token")


def environment(model: str, config: Any, options: Sequence[str], log: str) -> list[tuple[str, str]]:
    """Return the facts of a report about a machine, an installation and a model, each with its name.

    Args:
        model: the model's name as the report shows it.
        config: vLLM's `ModelConfig`.
        options: vLLM's options, as on the command line.
        log: the log of a server.
    """
    import torch
    import transformers

    from traitwatch.vllm_private.version import installed_version

    packages = {"vLLM": installed_version(), "torch": torch.__version__, "transformers": transformers.__version__}
    quantization = f", {config.quantization}" if config.quantization else ""
    return [
        ("Traitwatch", version("traitwatch")),
        *packages.items(),
        ("Python", f"{platform.python_version()}, {platform.system()} {platform.machine()}"),
        ("device", device()),
        ("model", f"{model} ({', '.join(config.architectures)}; {dtype_name(config)}{quantization})"),
        ("size", f"{config.get_total_num_hidden_layers()} layers of {config.get_hidden_size()}"),
        ("options", " ".join(shown_options(options)) or "none"),
        ("model runner", model_runner(log)),
        ("attention backend", attention_backend(log)),
    ]


def not_covered(config: Any, log: str) -> list[str]:
    """Return the parts of vLLM that the checks on this machine do not cover."""
    left = ["engine features that the options above do not turn on"]
    if on_cpu():
        left += ["GPUs, CUDA graphs and CUDA streams"]
    if model_runner(log) != "V2":
        left += ["the V2 model runner"]
    if config.enforce_eager:
        left += ["compiled graphs (--enforce-eager)"]
    return left


def on_cpu() -> bool:
    """Tell whether vLLM is the CPU build."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def dtype_name(config: Any) -> str:
    """Return the precision in which vLLM serves the model, e.g. `bfloat16`."""
    return str(config.dtype).removeprefix("torch.")


def device() -> str:
    """Return the GPUs and their driver, or the CPU; never starts a CUDA context, which would take GPU memory."""
    if on_cpu():
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8", "replace"), re.MULTILINE)
        return f"CPU: {found[1] if found else platform.processor() or 'unknown'}, {os.cpu_count()} logical cores"
    tool = shutil.which("nvidia-smi")
    if tool is None:
        from vllm.platforms import current_platform

        return f"{current_platform.get_device_name()} ({current_platform.device_name})"
    import torch

    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    lines = subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
    gpus = ", ".join(f"{count} x {name.strip()}" for name, count in Counter(lines).items())
    return f"{gpus} (name, memory, driver); CUDA {torch.version.cuda}"


def shown_options(options: Sequence[str]) -> list[str]:
    """Return options without the values that are secret."""
    public: list[str] = []
    hide = False
    for option in options:
        name, equals, _ = option.partition("=")
        if hide:
            public.append("[hidden]")
        elif equals and name in _SECRET_OPTIONS:
            public.append(f"{name}=[hidden]")
        else:
            public.append(option)
        hide = option in _SECRET_OPTIONS
    return public


def attention_backend(log: str) -> str:
    """Return the attention backend that a server's log names."""
    return ", ".join(attention_backends(log)) or ("vLLM's for CPUs" if on_cpu() else "not known")
