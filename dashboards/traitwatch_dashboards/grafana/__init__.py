"""The Grafana dashboard as code: `python -m traitwatch_dashboards.grafana` writes `traitwatch.json`.

- `dashboard` assembles the rows, the variables and the annotations, and writes the file.
- `trait_rows` has the rows about traits: spikes, mean z, token z, drift, vectors.
- `health_rows` has the other rows: numbers at a glance, coverage, transport, vLLM.
- `panels` has the kinds of panel; `queries` has the PromQL.
- `provisioning/` has the files that make a Grafana server load the dashboard and its data source.

Begin with `dashboard.make_dashboard`. `dashboard` imports the rows and panels late: they need
`grafana_foundation_sdk`, which a server does not.
"""
