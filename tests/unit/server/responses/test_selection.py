"""The `traits` field of a request, and the selection that follows from this field."""

from contextlib import nullcontext
from typing import get_args

import numpy as np
import pytest

from tests.support.traits import served_trait
from traitwatch_server.errors import RequestError
from traitwatch_server.responses.selection import select
from traitwatch_server.settings import TraitsAllow
from traitwatch_server.traits import trait_set

LOADED = trait_set([served_trait("paternalism", column=1), served_trait("deception")])


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
    ],
)
def test_the_selected_traits_and_tokens(value: object, default: str, names: list[str], tokens: bool) -> None:
    selection = select(value, LOADED, default)  # type: ignore[arg-type]
    assert selection is not None
    assert [trait.name for trait in selection.traits] == names
    assert selection.tokens is tokens


@pytest.mark.parametrize(("value", "default"), [(None, "off"), (False, "tokens")])
def test_a_request_without_a_selection_is_unscored(value: object, default: str) -> None:
    assert select(value, LOADED, default) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"include": ["kindness"]}, "'kindness'"),
        ({"include": "paternalism"}, "include"),
        ({"include": []}, "names no trait"),
        ({"tokens": 1}, "tokens"),
        ({"layer": 3}, "layer"),
        ({"prompt": 1}, "prompt"),
        ("all", "true, false or an object"),
        (1, "true, false or an object"),
    ],
)
def test_an_invalid_traits_field_is_refused(value: object, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        select(value, LOADED, "tokens")


def test_the_prompt_is_scored_on_request() -> None:
    with_prompt, by_default = select({"prompt": True}, LOADED, "off"), select({}, LOADED, "off")
    assert with_prompt is not None
    assert by_default is not None
    assert (with_prompt.prompt, by_default.prompt) == (True, False)


def test_each_trait_reads_its_own_column() -> None:
    loaded = trait_set([served_trait("a", layer=3, column=0), served_trait("b", layer=1, column=1)], layers=[2])
    selection = select({"include": ["b", "a"]}, loaded, "off")
    assert selection is not None
    states = np.array([[10, 11, 30], [12, 13, 32]], dtype=np.float32)
    assert selection.projections(states).tolist() == [[11, 13], [30, 32]]


@pytest.mark.parametrize(
    ("value", "allow", "allowed"),
    [
        (True, "tokens", True),
        (True, "summary", False),
        ({}, "summary", False),
        ({"tokens": False}, "summary", True),
        (False, "summary", True),
        ({"prompt": True}, "prompt", True),
        ({"prompt": True}, "tokens", False),
        ({"prompt": True, "tokens": False}, "tokens", False),
        ({"prompt": True, "tokens": False}, "summary", False),
    ],
)
def test_a_request_for_more_than_allowed_is_refused_and_the_option_is_named(
    value: object, allow: TraitsAllow, allowed: bool
) -> None:
    with nullcontext() if allowed else pytest.raises(RequestError, match=f"--traits-allow {allow}"):
        select(value, LOADED, "off", allow)


def test_a_request_without_the_field_is_never_refused() -> None:
    for allow in get_args(TraitsAllow):
        assert select(None, LOADED, "summary", allow) is not None
