"""The files of Prometheus, and the command `traitwatch rules`, which writes them for an installation.

- `prometheus.yml` is the scrape configuration, `recording_rules.yml` and `alert_rules.yml` are the rules.
- `rules` writes these files and Alertmanager's, with the address of the runbooks and, for trials, shorter durations.
"""
