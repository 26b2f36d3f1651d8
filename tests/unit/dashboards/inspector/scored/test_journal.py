"""The lines that a view draws."""

import json

from traitwatch_dashboards.inspector.api.traits import Trait
from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText
from traitwatch_dashboards.inspector.scored.journal import Journal

TRAIT = Trait("paternalism", 20, mean=-10.0, std=5.0, threshold=1.5)


BARE = Trait("bare", 20)


def lines(journal: Journal) -> list[dict[str, object]]:
    return [json.loads(line) for line in str(journal).splitlines()]


class TestJournal:
    def test_the_journal_only_grows(self) -> None:
        journal = Journal(("A", "B"), (TRAIT,))
        before = str(journal)
        journal.answer((TRAIT,), 1)
        journal.add(["a"], 0, {}, 1)
        middle = journal.news()
        journal.add(["b"], 0, {"paternalism": [1.0]}, 1)
        assert journal.grown
        after = journal.news()
        assert middle.startswith(before)
        assert after.startswith(middle)
        assert not journal.grown

    def test_additions_between_two_looks_are_one_line_in_the_order_of_the_traits(self) -> None:
        journal = Journal(traits=(TRAIT, BARE))
        journal.answer((TRAIT, BARE))
        journal.add(["a"], 0, {})
        journal.add(["b"], 0, {"bare": [0.5], "paternalism": [1.23456]})
        journal.add(["c"], 1, {"bare": [None], "paternalism": [2.0]})
        (added,) = [line for line in lines(journal) if line["k"] == "add"]
        assert added["texts"] == ["a", "b", "c"]
        assert added["start"] == 0
        assert added["rows"] == [[1.235, 2.0], [0.5, None]]

    def test_projections_after_a_gap_begin_a_new_line(self) -> None:
        journal = Journal(traits=(TRAIT,))
        journal.answer((TRAIT,))
        journal.add(["a", "b", "c"], 0, {"paternalism": [1.0]})
        journal.add([], 2, {"paternalism": [3.0]})
        added = [(line["start"], line["rows"]) for line in lines(journal) if line["k"] == "add"]
        assert added == [(0, [[1.0]]), (2, [[3.0]])]

    def test_a_text_with_line_breaks_stays_one_line(self) -> None:
        journal = Journal()
        journal.message("user", "one\ntwo\u2028three")
        assert [line for line in str(journal).split("\n") if line][-1].count("two") == 1

    def test_a_note_without_a_finish_is_marked_as_an_error(self) -> None:
        journal = Journal(traits=(TRAIT,))
        answer = InspectedText((TRAIT,), note="gone")
        journal.answer((TRAIT,))
        journal.end(answer)
        assert lines(journal)[-1] == {"k": "note", "p": 0, "text": "gone", "bad": True}
