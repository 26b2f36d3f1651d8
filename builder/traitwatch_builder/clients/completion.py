"""The parts of a chat completion that Traitwatch uses, checked.

The SDK builds its own types from whatever a server sends, without a look at it. So a server with other habits would
fail somewhere in the code that reads the reply. `Completion` holds the reply to what is needed, and reads the habits
that are known: a content in parts, thinking under two names, log-probabilities that are left out or have another form.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, FiniteFloat, ValidationError, WrapValidator

CONTENT_FILTER = "content_filter"
"""The code of an error, and the finish reason, where the provider's filter refuses a text."""
_SHOWN = 120


def _or_none(value: Any, handler: Any) -> Any:
    """Return a part of a reply; None where the part has another form, since the reply is usable without it."""
    try:
        return handler(value)
    except ValidationError:
        return None


def _text(content: Any) -> Any:
    """Return the text of a content that is a list of parts; parts that are not text, e.g. thinking, are left out."""
    if not isinstance(content, list):
        return content
    parts = [part for part in content if isinstance(part, dict) and part.get("type") in ("text", "output_text")]
    return "".join(str(part.get("text", "")) for part in parts)


class Candidate(BaseModel):
    """A token that the model might have written.

    Attributes:
        token: the text of the token.
        logprob: natural log-probability.
    """

    token: str
    logprob: FiniteFloat


class Token(Candidate):
    """A token that the model wrote, and the likeliest tokens at its place."""

    top_logprobs: list[Candidate] = []


class Logprobs(BaseModel):
    """The log-probabilities of a reply; `content` has one entry for each token."""

    content: list[Token] = []


class Message(BaseModel):
    """What the model wrote.

    Attributes:
        content: the text; None or empty where the model wrote none.
        refusal: the API's own refusal.
        reasoning_content: thinking that the server took out of the text; some servers call it `reasoning`.
        tool_calls: calls of tools, in place of a text.
    """

    content: Annotated[str | None, BeforeValidator(_text)] = None
    refusal: Annotated[str | None, WrapValidator(_or_none)] = None
    reasoning_content: Annotated[str | None, WrapValidator(_or_none)] = None
    reasoning: Annotated[str | None, WrapValidator(_or_none)] = None
    tool_calls: Annotated[list[Any] | None, WrapValidator(_or_none)] = None

    @property
    def thinking(self) -> str:
        """The thinking that the server took out of the text; empty where there is none."""
        return self.reasoning_content or self.reasoning or ""


class Choice(BaseModel):
    """One answer of a reply."""

    message: Message
    finish_reason: Annotated[str | None, WrapValidator(_or_none)] = None
    logprobs: Annotated[Logprobs | None, WrapValidator(_or_none)] = None

    @property
    def text(self) -> str:
        """The text; empty where the model wrote none."""
        return self.message.content or ""

    @property
    def filtered(self) -> bool:
        """Whether the provider refused: by a refusal of the API, or by its content filter."""
        return bool(self.message.refusal) or self.finish_reason == CONTENT_FILTER

    @property
    def said(self) -> str:
        """What the model wrote, for a message: the text, or what came in its place."""
        if self.text.strip():
            return repr(_short(self.text))
        if self.message.tool_calls:
            return "no text, but a call of a tool"
        if self.message.thinking:
            cut = ", cut off at the most tokens" if self.finish_reason == "length" else ""
            return f"no text, but only thinking ({_short(self.message.thinking)!r}{cut})"
        if self.finish_reason == CONTENT_FILTER:
            return "nothing, since the provider's content filter held the reply back"
        return "nothing"


class ReportedUsage(BaseModel):
    """Tokens, as the server counts them."""

    prompt_tokens: int | None = Field(None, ge=0)
    completion_tokens: int | None = Field(None, ge=0)


class Completion(BaseModel):
    """A reply of the Chat Completions API with at least one choice."""

    choices: list[Choice] = Field(min_length=1)
    usage: Annotated[ReportedUsage | None, WrapValidator(_or_none)] = None


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
