"""The messages of one pane. Some of them are scored."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText

Role = str


@dataclass
class Message:
    """One message.

    Attributes:
        role: `system`, `user` or `assistant`.
        text: text of the message; empty for a scored message.
        scored: the scored text of a scored message; None for other messages.
    """

    role: Role
    text: str = ""
    scored: InspectedText | None = None

    @property
    def content(self) -> str:
        """The text of the message, scored or not."""
        return self.text if self.scored is None else self.scored.text


@dataclass
class Transcript:
    """The messages of one pane.

    Attributes:
        title: title of the pane; empty where the view has one pane.
        messages: the messages, in order.
    """

    title: str = ""
    messages: list[Message] = field(default_factory=list)

    @property
    def answers(self) -> list[InspectedText]:
        """The scored texts, in order."""
        return [message.scored for message in self.messages if message.scored is not None]

    @property
    def model(self) -> str:
        """The model of the last scored text; empty without one."""
        return self.answers[-1].model if self.answers else ""

    def sent(self) -> list[dict[str, str]]:
        """Return the messages for a request. An answer that never came is left out together with its question."""
        sent: list[dict[str, str]] = []
        for message in self.messages:
            if message.role == "assistant" and not message.content:
                if sent and sent[-1]["role"] == "user":
                    sent.pop()
                continue
            sent.append({"role": message.role, "content": message.content})
        return sent


_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "you": "user", "model": "assistant"}


def parse_examples(text: str) -> list[Message]:
    """Return the turns of a text. Each turn begins with `User:` or `Assistant:` at the start of a line."""
    messages: list[Message] = []
    for line in text.splitlines():
        role, colon, rest = line.partition(":")
        known = _ROLES.get(role.strip().lower()) if colon else None
        if known is not None:
            messages.append(Message(known, rest.strip()))
        elif messages:
            messages[-1].text = f"{messages[-1].text}\n{line}".rstrip("\n") if line else f"{messages[-1].text}\n"
        elif line.strip():
            messages.append(Message("user", line.strip()))
    for message in messages:
        message.text = message.text.strip()
    return [message for message in messages if message.text]


def format_examples(messages: Sequence[dict[str, str]]) -> str:
    """Return turns as the text that `parse_examples` reads."""
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in messages)
