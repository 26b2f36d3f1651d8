"""The tables of the page and of its files."""

import pytest

from tests.support.inspected_text import BARE, answered
from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText
from traitwatch_dashboards.inspector.scored.tables import comparison, comparison_html

HOSTILE = "<script>alert(1)</script>"


class TestTables:
    def test_two_texts_are_compared_trait_by_trait(self) -> None:
        table = comparison([("A", answered(-5.0, None)), ("B", answered(-15.0, None))])
        row = table[table["trait"] == "paternalism"].iloc[0]
        assert (row["mean z, A"], row["mean z, B"], row["difference"]) == (1.0, -1.0, 2.0)

    def test_a_trait_that_one_text_lacks_is_left_out(self) -> None:
        other = InspectedText((BARE,), finish="stop")
        assert list(comparison([("A", answered(-5.0)), ("B", other)])["trait"]) == ["bare"]

    @pytest.mark.parametrize("name", ["baseline", ""])
    def test_two_texts_with_one_title_get_letters(self, name: str) -> None:
        row = comparison([(name, answered(-5.0, None)), (name, answered(-15.0, None))]).iloc[0]
        assert (row[f"mean z, {f'{name} A'.strip()}"], row[f"mean z, {f'{name} B'.strip()}"]) == (1.0, -1.0)

    def test_the_html_of_a_table_is_escaped(self) -> None:
        assert "<script" not in comparison_html([(HOSTILE, answered(-5.0)), ("B", answered(-5.0))])
