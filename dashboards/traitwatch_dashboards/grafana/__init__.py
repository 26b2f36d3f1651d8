"""The Grafana dashboard as code: `python -m traitwatch_dashboards.grafana` writes `traitwatch.json`.

- `dashboard` assembles the rows, the variables and the annotations, and writes the file.
- `trait_rows` has the rows about traits: spikes, mean z, token z, drift, vectors.
- `health_rows` has the other rows: numbers at a glance, coverage, transport, vLLM.
- `panels` has the kinds of panel; `queries` has the PromQL.
- `provisioning/` has the files that make a Grafana server load the dashboard and its data source.

Begin with `dashboard.make_dashboard`. All modules but `dashboard` import `grafana_foundation_sdk` or serve those that
do; `dashboard` imports it late, because a server does not need it.
"""
