"""Conversations as a model's chat template renders them, and the thinking of reasoning models.

*Conversations.* `bare` makes a conversation of one question. `render` gives a conversation as text, and `token_ids` as
tokens, up to the position where the assistant's answer begins. A template may skip a role that it does not know, or
take a content that is a text for a list of parts, and raise no error. So `render` looks for the text of each message in
what the template made, and tries the parts too.

*Thinking.* `without_thinking` removes the thinking from a model's text, and `thinks_on` finds a text whose thinking
never ended. Both go by the tags `<think>` and `</think>`. Servers with a reasoning parser remove the thinking
themselves. Without a parser the thinking stands at the beginning of the text; where the chat template has already
opened the thinking (`opens_thinking`), the text has only the closing tag.
"""

from collections.abc import Sequence
from typing import Any

from traitwatch_builder.errors import PipelineError

_OPEN, _CLOSE = "<think>", "</think>"
_SHOWN = 60
# What to do where a template drops the text of a role.
_ADVICE = {
    "system": "use --elicit many-shot, which needs no system message, or give a model whose template has a system role",
    "assistant": "use --elicit system, which needs no earlier answers, or mend the model's chat_template",
    "user": "mend the model's chat_template, or give another model",
}

Messages = list[dict[str, str]]
"""A conversation, in OpenAI's format."""


def bare(question: str) -> Messages:
    """Return the question alone, as production traffic asks it."""
    return [{"role": "user", "content": question}]


def render(tokenizer: Any, messages: Messages) -> str:
    """Return a conversation as text of the model's chat template, up to where the assistant's answer begins.

    Raises:
        PipelineError: the template does not take such a conversation, e.g. because it has no system role; or the text
            of a message is not in what the template makes.
    """
    try:
        text = _applied(tokenizer, messages)
        lost = _lost(text, messages)
        if lost is None:
            return text
        failure = PipelineError(
            f"the chat template of {_name(tokenizer)} drops the text of the {lost['role']} message "
            f"{_shortened(lost['content'])!r} without an error; {_ADVICE.get(lost['role'], _ADVICE['user'])}."
        )
    except Exception as error:  # noqa: BLE001 - templates raise jinja2's errors and, by raise_exception, any other
        roles = [message["role"] for message in messages[:3]]
        advice = "if the template has no system role, use --elicit many-shot" if "system" in roles else _ADVICE["user"]
        failure = PipelineError(
            f"the chat template of {_name(tokenizer)} does not take a conversation of {', '.join(roles)}, ... "
            f"({type(error).__name__}: {error}); {advice}."
        )
    in_parts: list[Any] = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    try:
        text = _applied(tokenizer, in_parts)
    except Exception:  # noqa: BLE001 - the first failure is the one that tells the user what to do
        raise failure from None
    if _lost(text, messages) is not None:
        raise failure
    return text


def _applied(tokenizer: Any, messages: Sequence[Any]) -> str:
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def _lost(text: str, messages: Messages) -> dict[str, str] | None:
    """Return the first message whose text is not in a rendered conversation; None where all are there.

    White space and case do not count: templates strip and lower texts. The messages stand one after the other, but the
    system message, the first of all, may stand anywhere: some templates put it before the last question. The thinking
    of an earlier answer may be left out.
    """
    rendered = without_space(text).casefold()
    end = 0
    for message in messages:
        content = message["content"]
        needed = without_space(without_thinking(content) if message["role"] == "assistant" else content).casefold()
        found = rendered.find(needed, end)
        if found < 0:
            return message
        if message["role"] != "system":
            end = found + len(needed)
    return None


def without_space(text: str) -> str:
    """Return a text without its white space."""
    return "".join(text.split())


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _name(tokenizer: Any) -> str:
    return getattr(tokenizer, "name_or_path", "") or "the model"


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a rendered text, which already contains its special tokens."""
    return [int(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]


def token_ids(tokenizer: Any, messages: Messages) -> list[int]:
    """Return the tokens of a conversation, up to where the assistant's answer begins."""
    return text_ids(tokenizer, render(tokenizer, messages))


def opens_thinking(prompt: str) -> bool:
    """Tell whether a rendered conversation ends inside the thinking, because its template has opened the thinking."""
    return prompt.rstrip().endswith(_OPEN)


def thinks_on(text: str, opened: bool = False) -> bool:
    """Tell whether the thinking in a model's text never ended; arguments as in `without_thinking`."""
    return (opened or _begins_with_thinking(text)) and _CLOSE not in text


def without_thinking(text: str, opened: bool = False) -> str:
    """Return the answer in a model's text: the part after the thinking, without the white space between the two.

    Args:
        text: the model's text. Tags in the middle of an answer belong to the answer.
        opened: whether the prompt ends inside the thinking. Then a text without a closing tag is all thinking.

    Returns:
        The answer; the whole text where there is no thinking; nothing where the thinking never ended.
    """
    before, close, after = text.partition(_CLOSE)
    if thinks_on(text, opened):
        return ""
    if close and (_begins_with_thinking(text) or _OPEN not in before):
        return after.lstrip()
    return text


def _begins_with_thinking(text: str) -> bool:
    return text.lstrip().startswith(_OPEN)
