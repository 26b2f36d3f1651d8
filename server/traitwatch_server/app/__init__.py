"""What vLLM's API process loads: the endpoint plugin, and all that the plugin installs.

- `plugin.py` is the entry point. `TraitwatchPlugin.attach_router` adds middleware and routes. `init_state` brings up
  the scoring in seven steps.
- `engine.py` wraps the engine client: `generate`, so that every call is scored and recorded, and `shutdown`.
- `canary.py` scores a known prompt before the server takes requests.
- `routes.py` has `/v1/traits` and `/v1/spikes`. `registry.py` loads and unloads traits while the server serves.
- `openapi.py` describes the scores in the server's schema. `exposition.py` answers `/metrics`.
- `draining.py` lets a server that ends finish its answers.
- `handover.py` has what the launcher leaves for the plugin.

Begin with `plugin.py`.
"""
