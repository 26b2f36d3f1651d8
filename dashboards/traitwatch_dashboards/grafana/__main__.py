"""Writes the Grafana dashboard: `python -m traitwatch_dashboards.grafana`."""

from traitwatch_dashboards.grafana.dashboard import write_dashboard

if __name__ == "__main__":
    write_dashboard()
