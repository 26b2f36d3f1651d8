"""Checks of the texts of a definition: what a model could not read as its writer meant it."""

import re
from collections.abc import Sequence

# What the bytes 0x80 to 0xbf become in a text that was read as Windows-1252 or Latin-1.
_AFTER = re.escape("".join(bytes([b]).decode("cp1252", "ignore") for b in range(0x80, 0xC0))) + "\x80-\x9f"
# How the commonest characters of UTF-8 look there: accented letters, quotes and dashes, a byte order mark, emoji.
_MISREAD = re.compile(f"[ÃÂ][{_AFTER}]|â[€\x80]|ï»¿|ðŸ|ð\x9f")
_NUMBER = re.compile(r"\s*(?:(?:question|q)\s*)?\(?(\d{1,3})\s?[.):]\s|\s*[-*\u2022]\s", re.IGNORECASE)


def damage(text: str) -> str | None:
    """Say what is wrong with a text: empty, or damaged by a conversion; None for a sound text."""
    if not text.strip():
        return "is empty"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "holds half of a surrogate pair, which no file can hold"
    if "\ufffd" in text:
        return f"has lost a character in a conversion, near {_around(text, text.index(chr(0xFFFD)))!r}"
    misread = _MISREAD.search(text)
    start = misread.start() if misread else _recoded(text)
    if start is not None:
        return f"is UTF-8 that was read as another encoding, near {_around(text, start)!r}: save it as UTF-8 anew"
    return None


def numbered(questions: Sequence[str]) -> list[int]:
    """Return the indices of questions that begin with a number or a mark of a list, which a model would take for text.

    One question may begin so by right, such as "2. Bundesliga: who wins?", unless its number is its place.
    """
    marks = {i: mark for i, text in enumerate(questions) if (mark := _NUMBER.match(text))}
    return [i for i, mark in marks.items() if len(marks) > 1 or mark[1] == str(i + 1)]


def _recoded(text: str) -> int | None:
    """Return where the first character stands that is no ASCII, if the whole text is UTF-8 read as another encoding."""
    for encoding in ("cp1252", "latin-1"):
        try:
            if text.encode(encoding).decode() != text:
                return next(i for i, character in enumerate(text) if character > "\x7f")
        except UnicodeError:
            continue
    return None


def _around(text: str, place: int) -> str:
    return text[max(0, place - 15) : place + 16]
