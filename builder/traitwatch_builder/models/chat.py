"""Conversations as a model's chat template renders them, and the thinking of reasoning models.

*Conversations.* `bare` makes a conversation of one question. `render` gives a conversation as text, and `token_ids` as
tokens, up to the position where the assistant's answer begins.

*Thinking.* `without_thinking` removes the thinking from a model's text, and `thinks_on` finds a text whose thinking
never ended. Both go by the tags `<think>` and `</think>`. Servers with a reasoning parser remove the thinking
themselves. Without a parser the thinking stands at the beginning of the text; where the chat template has already
opened the thinking (`opens_thinking`), the text has only the closing tag.
"""

from typing import Any

from traitwatch_builder.errors import PipelineError

_OPEN, _CLOSE = "<think>", "</think>"

Messages = list[dict[str, str]]
"""A conversation, in OpenAI's format."""


def bare(question: str) -> Messages:
    """Return the question alone, as production traffic asks it."""
    return [{"role": "user", "content": question}]


def render(tokenizer: Any, messages: Messages) -> str:
    """Return a conversation as text of the model's chat template, up to where the assistant's answer begins.

    Raises:
        PipelineError: the template does not take such a conversation, e.g. because it has no system role.
    """
    try:
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    except Exception as error:  # templates raise jinja2's errors and, by raise_exception, any other
        roles = ", ".join(message["role"] for message in messages[:3])
        raise PipelineError(
            f"the model's chat template does not take a conversation of {roles}, ... ({error}); "
            "if the template has no system role, use --elicit many-shot."
        ) from error


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
