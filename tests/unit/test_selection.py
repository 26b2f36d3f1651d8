"""What a request may say of traits, and what it gets."""

import pytest

from server.errors import RequestError
from server.selection import select
from tests.unit.traits import served_trait

LOADED = {name: served_trait(name) for name in ("deception", "paternalism")}


@pytest.mark.parametrize(
    ("value", "default", "names", "tokens"),
    [
        (None, "tokens", ["deception", "paternalism"], True),
        (None, "summary", ["deception", "paternalism"], False),
        (True, "off", ["deception", "paternalism"], True),
        (True, "summary", ["deception", "paternalism"], True),
        ({}, "off", ["deception", "paternalism"], True),
        ({"include": ["paternalism"]}, "off", ["paternalism"], True),
        ({"include": ["paternalism", "paternalism"]}, "off", ["paternalism"], True),
        ({"tokens": False}, "tokens", ["deception", "paternalism"], False),
        ({"include": []}, "tokens", [], True),
    ],
)
def test_what_is_selected(value: object, default: str, names: list[str], tokens: bool) -> None:
    selection = select(value, LOADED, default)  # type: ignore[arg-type]
    assert selection is not None
    assert [trait.name for trait in selection.traits] == names
    assert selection.tokens is tokens


@pytest.mark.parametrize(("value", "default"), [(None, "off"), (False, "tokens")])
def test_what_goes_unscored(value: object, default: str) -> None:
    assert select(value, LOADED, default) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"include": ["kindness"]}, "'kindness'"),
        ({"include": "paternalism"}, "include"),
        ({"tokens": 1}, "tokens"),
        ({"layer": 3}, "layer"),
        ({"prompt": True}, "prompt"),
        ("all", "true, false or an object"),
        (1, "true, false or an object"),
    ],
)
def test_what_is_refused(value: object, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        select(value, LOADED, "tokens")
