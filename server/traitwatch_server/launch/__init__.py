"""From `traitwatch serve` to vLLM's own `serve`: options, checks, hand-over. This code runs in the launcher's process.

- `command.py` has the command: our options, which become `Settings`; and the inspector of `--ui`.
- `versions.py` refuses a vLLM that the package does not support, before any other name of vLLM is imported.
- `vllm_serve.py` parses vLLM's options, refuses options with which tokens would not be scored, checks that vectors and
  model go together, and runs `vllm serve` with our worker class.

Names of vLLM that vLLM does not promise, and the patched start of its processes, are in `traitwatch.vllm_private`.
Begin with `command.py`.
"""
