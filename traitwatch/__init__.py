"""The ground that `server`, `builder` and `dashboards` stand on, and the `traitwatch` command."""
