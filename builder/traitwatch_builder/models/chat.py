"""Answers of reasoning models: the thinking is told from the answer by its `<think>` tags, and left out.

Servers with a reasoning parser take the thinking out themselves. Without one it stands at the beginning of the text,
and where the chat template has opened it already, only its closing tag does.
"""

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
