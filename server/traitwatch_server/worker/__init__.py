"""The part of the server that runs inside vLLM's workers: it projects hidden states and sends the projections.

The package knows only the wire format, the process helpers and the ground: it has no part of the API process in it.

- `worker`: `TraitWorker`, the class of `--worker-cls`. It taps the model when the model is loaded, and sends the
  projections of each forward pass.
- `tap`: the forward hooks, and the custom operation that multiplies hidden states with the loaded vectors.
- `rows`: which rows of a pass belong to requests that are scored.
- `sender`: the thread that sends these rows to the API processes over ZeroMQ.

Begin with `TraitWorker.execute_model`, which shows the path of one pass.
"""
