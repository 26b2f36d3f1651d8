"""Answers of reasoning models: the thinking is told from the answer by its `<think>` tags, and left out.

Servers with a reasoning parser take the thinking out themselves. Without one it stands at the beginning of the text,
and where the chat template has opened it already, only its closing tag does.
"""

from typing import Any

from traitwatch_builder.errors import PipelineError

_OPEN, _CLOSE = "<think>", "</think>"


def opens_thinking(prompt: str) -> bool:
    """Tell whether a rendered conversation ends inside the thinking: its template has opened it."""
    return prompt.rstrip().endswith(_OPEN)


def without_thinking(text: str, opened: bool = False) -> str:
    """Return the answer in a model's text: what follows the thinking, without the white space between the two.

    Args:
        text: what the model wrote. Tags in the middle of an answer are the answer's own.
        opened: the prompt ends inside the thinking, so that a text without a closing tag is all thinking.

    Returns:
        The answer, as it is where there was no thinking; empty where the thinking never ended.
    """
    before, close, after = text.partition(_CLOSE)
    if thinks_on(text, opened):
        return ""
    if close and (_begins(text) or _OPEN not in before):
        return after.lstrip()
    return text


def thinks_on(text: str, opened: bool = False) -> bool:
    """Tell whether the thinking in a model's text never ended; arguments as in `without_thinking`."""
    return (opened or _begins(text)) and _CLOSE not in text


def _begins(text: str) -> bool:
    return text.lstrip().startswith(_OPEN)


Messages = list[dict[str, str]]


def bare(question: str) -> Messages:
    """Return the question alone, as production traffic asks it."""
    return [{"role": "user", "content": question}]


def render(tokenizer: Any, messages: Messages) -> str:
    """Return a conversation as the model's chat template writes it, up to where the assistant's answer begins.

    Raises:
        PipelineError: the template does not take such a conversation, e.g. no system prompt.
    """
    try:
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    except Exception as error:  # templates raise jinja2's errors and, by raise_exception, whatever they like
        roles = ", ".join(message["role"] for message in messages[:3])
        raise PipelineError(
            f"the model's chat template does not take a conversation of {roles}, ... ({error}); "
            "if it has no system role, use --elicit many-shot."
        ) from error


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a rendered text, whose special tokens are written out in it."""
    return [int(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]


def token_ids(tokenizer: Any, messages: Messages) -> list[int]:
    """Return the tokens of a conversation up to where the assistant's answer begins."""
    return text_ids(tokenizer, render(tokenizer, messages))
