"""Writes the Grafana dashboard: `python -m traitwatch_dashboards.grafana`."""

from traitwatch_dashboards.grafana.dashboard import main

if __name__ == "__main__":
    main()
