"""The events of the server's spike log."""

import json

import pytest

from traitwatch_dashboards.errors import DashboardError
from traitwatch_dashboards.inspector.scored.scoring import Pasted
from traitwatch_dashboards.inspector.scored.spike_events import choices_of, pasted_event

EVENT = {"event": "spike", "trait": "paternalism", "prompt": "<|im_start|>user\nq", "text": "a", "peak_z": 4.2}


class TestSpikeEvents:
    def test_a_line_of_the_log_is_scored_raw(self) -> None:
        assert pasted_event(Pasted(json.dumps(EVENT))) == Pasted("a", "<|im_start|>user\nq", raw=True)

    def test_a_line_without_text_names_the_option_that_logs_texts(self) -> None:
        with pytest.raises(DashboardError, match="--traits-events-text"):
            pasted_event(Pasted('{"event": "spike"}'))

    @pytest.mark.parametrize("text", ["{not json", '{"a": 1}', "plain"])
    def test_any_other_text_is_itself(self, text: str) -> None:
        assert pasted_event(Pasted(text, "p")) == Pasted(text, "p")

    def test_only_events_with_texts_can_be_chosen(self) -> None:
        assert len(choices_of([EVENT, {"event": "spike", "trait": "x"}])) == 1
