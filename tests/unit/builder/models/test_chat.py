"""The thinking of a reasoning model is no part of its answer."""

import pytest

from traitwatch_builder.models.chat import thinks_on, without_thinking


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("plain", "plain"),
        ("", ""),
        ("  kept as it is ", "  kept as it is "),
        ("<think>let me see</think>\n\nyes", "yes"),
        ("\n<think>\nlet me\nsee\n</think>yes\n", "yes\n"),
        ("<think></think>yes", "yes"),
        ("the template opened it</think>\nyes", "yes"),
        ("<think>a</think>write </think> to end it", "write </think> to end it"),
        ("The tags <think> and </think> mark it.", "The tags <think> and </think> mark it."),
        ("<think>it never ends", ""),
        ("<think>only</think>", ""),
    ],
)
def test_the_thinking_at_the_beginning_is_cut(text: str, answer: str) -> None:
    assert without_thinking(text) == answer


def test_a_thinking_that_the_prompt_opened_and_nobody_closed_is_no_answer() -> None:
    assert without_thinking("let me see", opened=True) == ""
    assert without_thinking("let me see</think>yes", opened=True) == "yes"


def test_an_unfinished_thinking_differs_from_an_empty_answer() -> None:
    assert thinks_on("<think>hm")
    assert thinks_on("hm", opened=True)
    assert not thinks_on("<think>hm</think>")
    assert not thinks_on("")
