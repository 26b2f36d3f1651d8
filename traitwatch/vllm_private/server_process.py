"""vLLM's own server as a process: the module that runs it, and what its log names."""

import re

# The module of vLLM's server: `python -m` runs it.
SERVER_MODULE = "vllm.entrypoints.launchers.api_server.entry"

_BACKEND = re.compile(r"Using (?:AttentionBackendEnum\.)?(\w+) attention backend")


def model_runner(log: str) -> str:
    """Return the model runner that a server used. vLLM's workers log only the name of the newer one."""
    return "V2" if "Using V2 Model Runner" in log else "V1"


def attention_backends(log: str) -> list[str]:
    """Return the attention backends that a log names, sorted. vLLM's backend for CPUs has no name in the log."""
    return sorted(set(_BACKEND.findall(log)))
