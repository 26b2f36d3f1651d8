"""Text of a report: numbers, characters that HTML cannot hold, and the sentence for a part that is missing."""

from dataclasses import dataclass

# Control characters but tab and newline, and lone surrogates.
_VISIBLE = {code: chr(0x2400 + code) for code in range(32) if code not in (9, 10)} | {127: "\u2421"}
_VISIBLE |= dict.fromkeys(range(0xD800, 0xE000), "\ufffd") | dict.fromkeys(range(0x80, 0xA0), "\ufffd")


@dataclass(frozen=True)
class Missing:
    """Stands for a part of the report that cannot be shown.

    Attributes:
        what: the sentence that names the missing measurement or file.
        command: the command that makes it.
    """

    what: str
    command: str


def visible(text: str) -> str:
    """Return `text` with visible signs for what HTML cannot hold: NUL, other control characters, lone surrogates."""
    return text.translate(_VISIBLE)


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with a typographic minus sign, or a dash for None."""
    return "\u2013" if value is None else f"{value:.{digits}f}".replace("-", "\u2212")
