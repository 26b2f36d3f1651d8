"""vLLM's OpenAI server with the projection of every generated token attached to its response.

Three processes work together. The *launcher* (`launch/`) checks the vectors and hands over to `vllm serve`.
Each *worker* (`worker/`) runs the model with the tap in it, and sends rows of projections. Each *API process* loads the
plugin of `app/`, receives the rows (`ledger/`), attaches scores to responses (`responses/`) and records what has ended
(`recording/`).

- `wire.py` is what the three processes agree on. `process.py` has what each of them does when it starts.
- `settings.py` has the options of `traitwatch serve`. `traits.py` has the served traits and their columns in the tap.
- `metrics.py` has the Prometheus metrics. `monitor.py` holds one API process together.
- `doctor/` checks a machine: it runs servers, and compares scores and speed.

Imports run one way: wire, settings, errors, process < traits < metrics < ledger < recording < monitor < responses < app
< launch < doctor. `worker/` imports only `wire`, `process` and the ground. Begin with `monitor.py` and `app/plugin.py`.
"""
