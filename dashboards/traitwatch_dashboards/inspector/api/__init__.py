"""One Traitwatch server, as the inspector reads it over HTTP.

- `client` sends the requests. It holds the API key, which never reaches the browser.
- `traits` parses the list of traits with their baselines.
- `traffic` parses the metrics into samples, and computes the traffic between two samples.
- `problems` turns errors into messages that say what to do.

Begin with `client.Server`.
"""
