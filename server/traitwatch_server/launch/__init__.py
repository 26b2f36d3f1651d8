"""From `traitwatch serve` to vLLM's own `serve`: options, checks, hand-over. All of it runs in the launcher's process.

- `command.py` has the command: our options, of which it makes `Settings`; and the inspector of `--ui`.
- `versions.py` refuses a vLLM that the package does not support, before any other name of vLLM is imported.
- `vllm_serve.py` parses vLLM's options, refuses those that would serve unscored, checks that vectors and model go
  together, and runs `vllm serve` with our worker class.

Names of vLLM that vLLM does not promise, and the patched start of its processes, are in `traitwatch.vllm_private`.
Begin with `command.py`.
"""
