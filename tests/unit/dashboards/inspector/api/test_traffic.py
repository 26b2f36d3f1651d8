"""The traffic of a server, from its metrics."""

from traitwatch_dashboards.inspector.api.traffic import Counts, TrafficSample, parse_sample, recent


class TestTraffic:
    METRICS = """
# TYPE traitwatch_responses counter
traitwatch_responses_total{engine="0",trait="a"} 10.0
traitwatch_responses_total{engine="1",trait="a"} 10.0
# TYPE traitwatch_responses_over_threshold counter
traitwatch_responses_over_threshold_total{engine="0",trait="a"} 5.0
# TYPE traitwatch_response_z counter
traitwatch_response_z_total{engine="0",trait="a",sign="positive"} 30.0
traitwatch_response_z_total{engine="1",trait="a",sign="negative"} 10.0
# TYPE traitwatch_drift gauge
traitwatch_drift{engine="0",trait="a"} 1.0
traitwatch_drift{engine="1",trait="a"} -2.0
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} 3.0
"""

    def test_engines_add_up(self) -> None:
        seen = parse_sample(self.METRICS, 1.0)
        assert seen.traits["a"].mean_z == 1.0
        assert seen.traits["a"].spike_rate == 0.25
        assert seen.running == 3.0
        assert seen.drift == {"a": -2.0}

    def test_recent_has_the_mean_z_between_two_samples(self) -> None:
        samples = [
            TrafficSample(0.0, {"a": Counts(10, 0, 0, 10.0)}),
            TrafficSample(10.0, {"a": Counts(11, 0, 0, 99.0)}),
            TrafficSample(30.0, {"a": Counts(14, 0, 0, 2.0)}),
            TrafficSample(60.0, {"a": Counts(14, 0, 0, 2.0)}),
        ]
        assert [(r.time, r.mean_z) for r in recent(samples)] == [(30.0, {"a": -2.0})]

    def test_a_restart_of_the_server_restarts_the_counts(self) -> None:
        assert Counts(2, 1, 1, 4.0).since(Counts(10, 3, 3, 1.0)).mean_z == 2.0
