"""How long the event loop of the API process stands still under the worst requests: `make blocked-loop`."""
