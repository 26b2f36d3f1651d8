"""A pasted text that is scored."""

from traitwatch_dashboards.inspector.scored.scoring import broken_runs


def test_runs_of_broken_tokens_are_found() -> None:
    assert broken_runs(["a", "\ufffd", "\ufffd", "b", "\ufffd"]) == [(1, 3), (4, 5)]
