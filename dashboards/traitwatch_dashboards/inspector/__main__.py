"""Starts the inspector: `python -m traitwatch_dashboards.inspector --url http://HOST:8000`."""

from traitwatch_dashboards.inspector.command import ui

if __name__ == "__main__":
    ui(prog_name="traitwatch ui")
