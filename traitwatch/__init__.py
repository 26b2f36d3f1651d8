"""The ground that builder, server and dashboards stand on, and the command `traitwatch`.

- `cli.py` has the command. It names each subcommand as a string, and imports a subcommand when it runs.
- `vectors.py` reads and writes persona vectors. `card.py` has the card that lies beside each vector: its model, its
  best layer, its calibration. `files.py` writes files whole or not at all.
- `spikes.py` finds spikes, in the same way for builder, server and dashboards.
- `precision.py` chooses the precision of a model on this machine. `cpu_engine.py` keeps an engine in one process there.
- `processes.py` runs servers and programs as child processes. `process_guard.py` ends them when their owner is killed.
- `vllm_private/` has everything that reads or patches vLLM where vLLM promises nothing.
- `errors.py` has the root of all errors.
- `shipped/` has the vectors that come with the package.

Nothing here imports builder, server or dashboards. Begin with `vectors.py`.
"""
