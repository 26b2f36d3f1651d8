"""Scores are read from the replies that judges give, and from no others."""

import pytest

from traitwatch_builder.clients.completion import Choice, Message
from traitwatch_builder.judging.replies import UnreadableReplyError, number_in, score_of_integer


def choice(content: str | None, finish_reason: str = "stop", **message: object) -> Choice:
    return Choice(message=Message.model_validate({"content": content, **message}), finish_reason=finish_reason)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        *[
            (text, 85.0)
            for text in ("85", " 85\n", "85.0", "85.", "85/100", "85 / 100", "85 out of 100", "85%", "**85**")
        ],
        *[(text, 85.0) for text in ("Score: 85", "**Score:** 85/100", "score = 85", "The coherence score is 85.")],
        *[
            (text, 85.0)
            for text in ("The reply is plain.\n1. It is whole.\n\nScore: 85", "\\boxed{85}", '"85"', "`85`")
        ],
        *[
            (text, 85.0)
            for text in ("<think>3 or 4?</think>85", "<think>{}</think>\nScore: 85", "7 it was</think>\n85")
        ],
        *[(f'{{"{key}": 85, "refusal": false}}', 85.0) for key in ("score", "Score", "SCORE")],
        *[(f'{{"score": "{text}"}}', 85.0) for text in ("85", "85/100", " 85 ")],
        ('```json\n{"Score": 85.0, "Refusal": false}\n```', 85.0),
        ('Here you are: {"score": 85, "refusal": "false"}', 85.0),
        ("0", 0.0),
        ("100", 100.0),
        ("72.5", 72.5),
        *[(text, None) for text in ("REFUSAL", "refusal", "Refusal.", "<think>85</think>REFUSAL", "**REFUSAL**")],
        *[(text, None) for text in ('{"score": "refusal"}', '{"Score": null, "Refusal": true}', '{"refusal": "True"}')],
    ],
)
def test_the_common_forms_of_a_score_and_of_a_refusal_are_read(text: str, score: float | None) -> None:
    assert score_of_integer(choice(text)) == score


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "high",
            "I cannot rate 2 answers",
            "8/10",
            "85 of 90",
            "101",
            "-5",
            "Score: 850",
            "85 or 90",
            "1e2",
            "٨٥ von",
        ),
        *("First: 85\nand then I stopped", "1. plain\n2. whole", "<think>85", "<think>85 of 100, so", "85 <think>"),
        *(
            '{"score": true}',
            '{"score": 101}',
            '{"score": NaN}',
            '{"score": {"value": 85}}',
            '{"rating": 85}',
            '{"score": 8',
        ),
        *(
            '{"score": "high"}',
            "{" * 3000 + "}" * 3000,
            '{"score": 1e999}',
            f'{{"score": {"9" * 400}}}',
            "[85]x",
            "{85: 1}",
        ),
    ],
)
def test_what_is_neither_a_score_nor_a_refusal_is_not_read(text: str) -> None:
    with pytest.raises(UnreadableReplyError):
        score_of_integer(choice(text))


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (choice("Well,\n  it is good"), "'Well, it is good'"),
        (choice("x" * 500), f"'{'x' * 120}...'"),
        (choice(None), "nothing"),
        (choice(None, reasoning="it is 85"), "no text, but only thinking ('it is 85')"),
        (choice("", "length", reasoning_content="so"), "no text, but only thinking ('so', cut off at the most tokens)"),
        (choice(None, tool_calls=[{"id": "1"}]), "no text, but a call of a tool"),
    ],
)
def test_an_unreadable_reply_is_quoted(reply: Choice, said: str) -> None:
    with pytest.raises(UnreadableReplyError) as caught:
        score_of_integer(reply)
    assert str(caught.value) == said


@pytest.mark.parametrize("text", ["85 stars of 90 in the sky", '{\n"score": 8', "so {x}\nScore: 85"])
def test_a_text_with_more_than_a_number_states_none(text: str) -> None:
    assert number_in(text) is None


def test_a_number_that_may_be_cut_off_is_not_read() -> None:
    with pytest.raises(UnreadableReplyError):
        score_of_integer(choice("Score: 8", "length"))
