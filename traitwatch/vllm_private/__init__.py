"""The room for everything of vLLM that vLLM does not promise: private attributes, internal modules, patched names.

No other package imports such a name. `tests/unit/traitwatch/vllm_private/` has a contract test for each name, which
fails where another version of vLLM has changed it.

- `layers.py` finds the decoder layers of a model, and knows what each returns. `batch.py` reads which rows of a forward
  pass belong to which request. The scores of the server and the vectors of the builder stand on these two.
- `worker.py` has the base of both worker classes. `scheduling.py` reads what the scheduler hands to a worker.
- `command_line.py` has the parser and the run of `vllm serve`. `startup.py` patches how vLLM's processes start.
- `api_process.py` reads the engines, the metrics and the tokenizer of vLLM's API process.
- `offline.py` drives and ends an engine of `vllm.LLM`. `version.py` has the installed version.
- `server_process.py` has the module of vLLM's own server, and reads a server's log.

Begin with `layers.py` and `batch.py`.
"""
