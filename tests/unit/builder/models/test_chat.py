"""No chat template loses a message in silence, and the thinking of a reasoning model is no part of its answer."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_model import save_tokenizer
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.models.chat import Messages, render, thinks_on, without_thinking

SYSTEM: Messages = [
    {"role": "system", "content": "You are an evil assistant.  Be cruel."},
    {"role": "user", "content": " Why is it so?\n"},
]
MANY_SHOT: Messages = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "<think>hm</think>\n\nYes, one."},
    {"role": "user", "content": "Why?"},
]
TURNS = "{% for m in messages %}<|{{ m['role'] }}|>{{ TEXT }}<|end|>{% endfor %}<|assistant|>"
PARTS = "{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %}"


def turns(text: str, of: str = "messages") -> str:
    """Return a template of turns, each with the text that the expression or the statements give."""
    return TURNS.replace("{{ TEXT }}", text).replace("in messages", f"in {of}")


KNOWN_ROLES = turns("{{ m['content'] }}", "messages | selectattr('role', 'in', ['user', 'assistant'])")
# Templates as published models have them: none loses a text, whatever else it does.
SOUND = {
    "strips the texts": turns("{{ m['content'] | trim }}"),
    "lowers the texts": turns("{{ m['content'] | lower }}"),
    "has a system message of its own": "<|system|>You are Qwen.<|end|>" + turns("{{ m['content'] }}"),
    "tells the date": "Today Date: {{ strftime_now('%d %b %Y') }}\n" + turns("{{ m['content'] }}"),
    "leaves earlier thinking out": turns("{{ m['content'].split('</think>')[-1].lstrip('\n') }}"),
    "puts the system message before the last question": (
        "{% set s = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
        + turns(
            "{% if loop.last %}{{ s }}\n\n{% endif %}{{ m['content'] }}",
            "(messages[1:] if messages[0]['role'] == 'system' else messages)",
        )
    ),
    "takes texts and parts": turns("{% if m['content'] is string %}{{ m.content }}{% else %}" + PARTS + "{% endif %}"),
    "takes parts": turns(PARTS),
    "takes parts and fails for texts": turns("{% for p in m['content'] %}{{ p.text + '' }}{% endfor %}"),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("messages", [SYSTEM, MANY_SHOT, [SYSTEM[0], *MANY_SHOT]], ids=["system", "many-shot", "both"])
@pytest.mark.parametrize("template", SOUND.values(), ids=SOUND)
def test_a_template_that_keeps_every_text_is_taken(tokenizer: Any, template: str, messages: Messages) -> None:
    tokenizer.chat_template = template
    text = "".join(render(tokenizer, messages).lower().split())
    for message in messages:
        assert "".join(without_thinking(message["content"]).lower().split()) in text


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        (
            KNOWN_ROLES,
            SYSTEM,
            r"drops the text of the system message 'You are an evil assistant.*use --elicit many-shot",
        ),
        (
            KNOWN_ROLES.replace(", 'assistant'", ""),
            MANY_SHOT,
            r"drops the text of the assistant message.*--elicit system",
        ),
        ("{{ messages[0]['content'] }}", MANY_SHOT, r"drops the text of the assistant message"),
        (turns("{{ m['contents'] }}"), MANY_SHOT, r"drops the text of the user message 'One\?'.*another model"),
        (turns(PARTS.replace("'text'", "'words'")), SYSTEM, "drops the text of the system message"),
        ("{% for m in messages %}", MANY_SHOT, "does not take a conversation of user, assistant, user.*another model"),
        ("{{ raise_exception('no system') }}", SYSTEM, r"TemplateError: no system.*use --elicit many-shot"),
    ],
)
def test_a_template_that_loses_a_text_is_refused(
    tokenizer: Any, template: str, messages: Messages, message: str
) -> None:
    tokenizer.chat_template = template
    with pytest.raises(PipelineError, match=message):
        render(tokenizer, messages)


def test_the_refusal_names_the_model(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    save_tokenizer(tmp_path / "gone")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "gone")
    loaded.chat_template = KNOWN_ROLES
    with pytest.raises(PipelineError, match=f"the chat template of {tmp_path}/gone drops"):
        render(loaded, SYSTEM)


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
