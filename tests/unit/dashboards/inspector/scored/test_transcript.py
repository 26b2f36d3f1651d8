"""The messages of a pane."""

from traitwatch_dashboards.inspector.api.traits import Trait
from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText
from traitwatch_dashboards.inspector.scored.transcript import Message, Transcript, format_examples, parse_examples

TRAIT = Trait("paternalism", 20, mean=-10.0, std=5.0, threshold=1.5)


class TestTranscript:
    def test_formatted_examples_are_parsed_unchanged(self) -> None:
        turns = [{"role": "user", "content": "a: b\n\nc"}, {"role": "assistant", "content": "yes"}]
        assert [(m.role, m.text) for m in parse_examples(format_examples(turns))] == [
            ("user", "a: b\n\nc"),
            ("assistant", "yes"),
        ]

    def test_a_question_without_an_answer_is_not_sent_again(self) -> None:
        transcript = Transcript(
            messages=[
                Message("system", "s"),
                Message("user", "lost"),
                Message("assistant", scored=InspectedText((TRAIT,))),
                Message("user", "now"),
                Message("assistant", scored=InspectedText((TRAIT,))),
            ]
        )
        assert transcript.sent()[:1] == [{"role": "system", "content": "s"}]
        before_the_answer = Transcript(messages=transcript.messages[:-1])
        assert [m["content"] for m in before_the_answer.sent()] == ["s", "now"]
