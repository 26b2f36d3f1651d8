"""The dashboards: every page, panel and alert that people look at. They talk to a server over HTTP alone.

- `inspector` is the web page of `traitwatch ui`: chat, compare, inspect, the traits, and live traffic.
- `grafana` writes the Grafana dashboard; `prometheus` holds the recording rules and alert rules.
- `alertmanager` holds an example of routing for the alerts.
- `demo` holds `traitwatch demo` and `traitwatch demo-alerts`, which serve the embedded model.
- `example_chats` has the two chats that the demonstration and the inspector's presets share.
- `errors` has `DashboardError`.

Begin with `inspector/app.py`, which builds the page. The package imports neither the server nor the builder.
"""
