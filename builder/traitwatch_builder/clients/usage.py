"""The usage of a paid API: calls and tokens, as the API's responses report them."""

from dataclasses import dataclass

CHARACTERS_PER_TOKEN = 4
"""In English text; for estimates of the cost before the first request."""


@dataclass(frozen=True)
class Usage:
    """Calls and tokens. Usages can be added.

    Attributes:
        calls: successful requests.
        input_tokens: tokens of the requests.
        output_tokens: tokens of the responses, thinking included.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
        )

    def __str__(self) -> str:
        return f"{self.calls:,} calls, {self.input_tokens:,} input tokens, {self.output_tokens:,} output tokens"
