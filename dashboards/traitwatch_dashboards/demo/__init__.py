"""The demonstrations: `traitwatch demo` and `traitwatch demo-alerts`.

- `demo` serves the embedded model and prints two chats with the colour of each token's score.
- `alerts` makes an alert fire and arrive at a webhook; `alert_chats` has its chats.
- `server` starts the server that both share; `monitoring` starts Prometheus and Alertmanager with the shipped files.
- `webhook` receives the notifications of Alertmanager.

Begin with `demo.demo`.
"""
