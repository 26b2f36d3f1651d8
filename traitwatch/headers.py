"""Headers of HTTP requests: what a header can carry, and the name of our own.

Command lines import this module for their options, so it imports nothing.
"""

ADMIN_HEADER = "X-Traitwatch-Admin-Key"
"""The header that carries the key of an operator."""


def fits_header(text: str) -> bool:
    """Tell whether a header can carry a text: ASCII without line breaks and other characters that do not print."""
    return text.isascii() and text.isprintable()
