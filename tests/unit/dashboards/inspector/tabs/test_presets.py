"""The presets of the tab Compare."""

from traitwatch_dashboards.inspector.scored.transcript import parse_examples
from traitwatch_dashboards.inspector.tabs.presets import presets


def test_presets_differ_in_their_examples_alone() -> None:
    for preset in presets():
        a, b = map(parse_examples, preset.examples)
        assert [m.text for m in a if m.role == "user"] == [m.text for m in b if m.role == "user"]
        assert [m.text for m in a if m.role == "assistant"] != [m.text for m in b if m.role == "assistant"]
        assert preset.prompt
