"""Records every generation when it has ended, whether or not its response carries scores.

- `recorder`: takes each call that has ended, waits for its last rows, and gives its scores to everything below.
- `tally`: counts scores in numpy, and passes the counts to Prometheus a few times a second.
- `drift`: whether the traffic of the last minutes differs from that of the last hours.
- `sink`: `Recorded`, one choice as the sinks get it, and the protocol `Sink`.
- `spike_log`: a sink that writes a line of JSON for each spike.
- `telemetry`, `otlp`: a sink that sends OpenTelemetry events; `otlp` alone imports OpenTelemetry's SDK.
- `background`: the thread with a bounded queue on which both sinks stand.

Begin with `Recorder.ended`.
"""
