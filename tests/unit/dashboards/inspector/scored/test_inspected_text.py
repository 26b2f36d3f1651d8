"""A scored text and its summary."""

from tests.support.inspected_text import BARE, TRAIT, answered
from traitwatch_dashboards.inspector.scored.inspected_text import Summary


class TestSummary:
    def test_the_servers_summary_replaces_our_own(self) -> None:
        answer = answered(-10.0, 0.0, None)
        assert answer.summary(TRAIT) == Summary(-5.0, 1.0, 2.0, ())
        answer.summaries["paternalism"] = Summary(1.0, 2.0, 3.0)
        assert answer.summary(TRAIT).z == 2.0

    def test_an_uncalibrated_trait_has_a_mean_and_no_z(self) -> None:
        assert answered(1.0, 3.0, None).summary(BARE) == Summary(2.0, None, None)

    def test_an_answer_without_states_has_no_summary(self) -> None:
        assert answered(None).summary(TRAIT) == Summary(None, None, None)
