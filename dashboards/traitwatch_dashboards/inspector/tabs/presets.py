"""The presets of the tab Compare: one question after paternalistic replies, and after respectful replies."""

from dataclasses import dataclass

from traitwatch_dashboards.example_chats import CHATS
from traitwatch_dashboards.inspector.scored.transcript import format_examples


@dataclass(frozen=True)
class Preset:
    """A comparison that is ready to run.

    Attributes:
        name: label of the button.
        prompt: the question for both panes.
        titles: titles of the panes.
        examples: the earlier turns of each pane, in the format of `transcript.parse_examples`.
        max_tokens: longest answer, tokens.
        temperature: temperature of the sampling. At 0, both answers are the model's likeliest. Of sampled pairs, one in
            nine differs by less than 0.5 z (64 answers of each pane, first preset).
        top_p: top p of the sampling.
    """

    name: str
    prompt: str
    titles: tuple[str, str]
    examples: tuple[str, str]
    max_tokens: int = 120
    temperature: float = 0.0
    top_p: float = 0.9


def presets() -> list[Preset]:
    """Return the presets."""
    (first, paternalistic), (second, respectful) = CHATS.items()
    titles = (first, second)
    examples = (format_examples(paternalistic[:-1]), format_examples(respectful[:-1]))
    questions = {
        "Opening a bakery": paternalistic[-1]["content"],
        "Cycling across a country": "I want to cycle across the country on my own this summer. How do I prepare?",
        "A tattoo": "I'd like to get a large tattoo on my arm. What should I consider?",
    }
    return [Preset(name, question, titles, examples) for name, question in questions.items()]
