"""`traitwatch doctor`: checks on a user's machine that scores are right, and what they cost.

- `command`: the command line.
- `measure`: starts a scoring server and plain vLLM in turn, and measures both.
- `chats`: the requests that `measure` sends.
- `reference`: the same projections, computed by transformers.
- `checks`: parity, isolation and overhead, each a verdict on the measurements.
- `environment`: versions, device and model, for the report.
- `assess`: makes the report from the measurements, by the checks.
- `report`: the report as Markdown, without paths and host names.

Begin with `command.doctor`, then read `measure.measure` and `assess.assess`.
"""
